"""From a YAML file and `--set` options to one checked configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from services.cluster.config import ClusterConfig
from services.core.config import parse
from services.core.errors import ConfigError


def load_config(file: Path | None, assignments: Sequence[str] = ()) -> ClusterConfig:
    """Read and check a configuration.

    Args:
        file: YAML file, or None for the defaults.
        assignments: `a.b=value` each, the value in YAML; they win over the file.

    Raises:
        ConfigError: what is wrong, where it is written, and what to write instead.
    """
    text = _read(file) if file else ""
    data = _mapping(text, file)
    assigned = [_assign(data, assignment) for assignment in assignments]
    try:
        return parse(ClusterConfig, data)
    except ConfigError as error:
        raise ConfigError(error.path, error.value, error.fix + _where(error.path, text, file, assigned)) from error


def state_folder(config: ClusterConfig) -> Path:
    """The folder of state files and converted models."""
    return Path(config.state_folder).expanduser()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        fix = "no such file; name a YAML file, or leave --config out for the defaults"
        raise ConfigError("--config", str(file), fix) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--config", str(file), f"cannot be read: {error}") from error


def _mapping(text: str, file: Path | None) -> dict[str, Any]:
    """The file's content as plain data."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError("--config", str(file), f"is not valid YAML{line}: {problem}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError("--config", str(file), "must hold keys such as `model:` and `pools:` at its top level")
    return data


def _assign(data: dict[str, Any], assignment: str) -> str:
    """Put one `a.b=value` into the data; returns its path."""
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError("--set", assignment, "write a.b=value, for example pools.decode.replicas=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path}", text, "the value is not valid YAML; put it in quotes") from error
    place = data
    for key in keys[:-1]:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise ConfigError(f"--set {path}", text, f"{key} is a single value and has no keys below it")
    place[keys[-1]] = value
    return ".".join(keys)


def _where(path: str, text: str, file: Path | None, assigned: Sequence[str]) -> str:
    """Where a bad key is written, for the end of a message."""
    if any(path == one or path.startswith(one + ".") or one.startswith(path + ".") for one in assigned):
        return " (given with --set)"
    if file is None:
        return ""
    line = _line_of(yaml.compose(text), path.split("."))
    return f" ({file}, line {line})" if line else f" ({file})"


def _line_of(node: yaml.Node | None, keys: Sequence[str]) -> int:
    """Line of the deepest key of the path that is written in the file, 0 when none is."""
    line = 0
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        children: Mapping[str, tuple[yaml.Node, yaml.Node]] = {pair[0].value: pair for pair in node.value}
        if key not in children:
            break
        name, node = children[key]
        line = name.start_mark.line + 1
    return line
