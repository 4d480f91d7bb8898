"""Writes what the chart's own files decide: its schema, its README and the expected renders; `make chart` runs it.

values.schema.json   values.yaml: types of the defaults, rules of its `@schema` lines; for `config` the pydantic models
README.md            the comments of values.yaml
files/               alert rules and dashboards of deploy/, which a chart cannot reach
tests/chart/golden/  every set of values in ci/, rendered
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from services.cluster.config import ClusterConfig
from services.cluster.topology import LAUNCHED

CHART = Path(__file__).parent / "triptych"
DEPLOY = CHART.parents[1] / "deploy"
GOLDEN = CHART.parents[1] / "tests" / "chart" / "golden"
REPEATED = ("dashboards.yaml", "prometheusrule.yaml")
NOTE = "<!-- Written by `make chart` from values.yaml; change that instead. -->"
DERIVED = (
    *("cluster", "state_folder", "model.path", "controller.drain_s", "telemetry.metrics_ports"),
    *("worker.host", "worker.lend_cores", "worker.store_ports", "worker.peer_ports"),
    *("frontdoor.host", "frontdoor.replicas", "frontdoor.grpc_port", "frontdoor.http_port", "frontdoor.drain_s"),
    *("redis.url", "redis.prefix", "redis.password_file"),
    *("frontdoor.tls", "frontdoor.auth.keys_file", "frontdoor.auth.secret_file"),
    *(f"pools.{pool}.replicas" for pool in LAUNCHED),
)
"""Keys of Triptych's configuration that follow from other values of the chart."""

# --- values.yaml ------------------------------------------------------------------------------------------------


@dataclass
class Value:
    """One documented key of values.yaml.

    Attributes:
        path: from the top.
        rules: what its `@schema` lines say.
    """

    path: tuple[str, ...]
    text: str = ""
    rules: dict[str, Any] = field(default_factory=dict)


def documented() -> list[Value]:
    """Every key that has a `--` comment, in the file's order."""
    found: list[Value] = []
    stack: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text(encoding="utf-8").splitlines():
        if (said := re.match(r"\s*# ?(.*)", line)) is not None:
            comment.append(said[1])
        elif (key := re.match(r"( *)([A-Za-z0-9_]+):", line)) is not None:
            while stack and stack[-1][0] >= len(key[1]):
                stack.pop()
            stack.append((len(key[1]), key[2]))
            if any(row.startswith("-- ") for row in comment):
                found.append(value_of(tuple(name for _, name in stack), comment))
            comment = []
        else:
            comment = []
    return found


def value_of(path: tuple[str, ...], comment: list[str]) -> Value:
    """What a comment says of its key."""
    value = Value(path)
    texts = []
    for row in comment:
        if row.startswith("@schema "):
            value.rules.update(json.loads(row.removeprefix("@schema ")))
        elif row.startswith("-- ") or texts:
            texts.append(row.removeprefix("-- "))
    value.text = " ".join(texts)
    return value


def defaults() -> dict[str, Any]:
    """values.yaml."""
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return loaded


def at(values: dict[str, Any], path: tuple[str, ...]) -> Any:
    """The value of a path."""
    for name in path:
        values = values[name]
    return values


# --- schema -----------------------------------------------------------------------------------------------------

TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
PORT_RANGE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["min", "max"],
    "properties": {"min": {"$ref": "#/definitions/port"}, "max": {"$ref": "#/definitions/port"}},
}
OPEN = ("global", "podSecurityContext", "securityContext")
"""Sections that take more keys than are listed: shared with other charts, or objects of Kubernetes."""


def schema() -> dict[str, Any]:
    """JSON Schema (draft 7, which every Helm 3 and 4 reads) of the values."""
    values, known = defaults(), {value.path: value for value in documented()}
    sections = {value.path[:depth] for value in known.values() for depth in range(1, len(value.path))}

    def of(path: tuple[str, ...]) -> dict[str, Any]:
        value = known.get(path, Value(path))
        rules: dict[str, Any] = {"description": value.text} if value.text else {}
        here = at(values, path)
        if path in sections:
            rules |= {"type": "object", "additionalProperties": path[0] in OPEN}
            rules["properties"] = {name: of((*path, name)) for name in here}
        elif "$ref" in value.rules:
            rules["allOf"] = [value.rules]
            if path[0] == "roles" and path[1] != "frontdoor" and path[1] not in LAUNCHED:
                rules["properties"] = {"enabled": {"const": False}}  # the program has no such pool yet
        else:
            rules |= ({} if here is None else {"type": TYPES[type(here)]}) | value.rules
        return rules

    made = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": False}
    made["properties"] = {name: of((name,)) for name in values}
    made["definitions"] = {
        "port": PORT,
        "portRange": PORT_RANGE,
        "role": of(("roleDefaults",)),
        **config_definitions(),
    }
    return made


def config_definitions() -> dict[str, Any]:
    """The pydantic models as draft 7, without the keys that the chart decides."""
    made = copy.deepcopy(ClusterConfig.model_json_schema())
    models: dict[str, Any] = made.pop("$defs")
    models["ClusterConfig"] = made
    for key in DERIVED:
        *sections, name = key.split(".")
        model = made
        for section in sections:
            model = models[model["properties"][section]["$ref"].rpartition("/")[2]]
        model["properties"].pop(name, None)
    plain: dict[str, Any] = as_draft_7(models)
    used: dict[str, Any] = {}
    collect("ClusterConfig", plain, used)
    return used


def as_draft_7(node: Any) -> Any:
    """A schema without titles and defaults, its references and tuples as draft 7 has them."""
    if isinstance(node, list):
        return [as_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {}
    for name, value in node.items():
        if name == "properties":
            made[name] = {key: as_draft_7(item) for key, item in value.items()}
        elif name == "$ref":
            made[name] = value.replace("#/$defs/", "#/definitions/")
        elif name == "prefixItems":
            made["items"] = as_draft_7(value)
        elif name == "description":
            made[name] = " ".join(value.split())
        elif name not in ("title", "default"):
            made[name] = as_draft_7(value)
    return made


def collect(name: str, models: dict[str, Any], used: dict[str, Any]) -> None:
    """Add a model and all that it refers to."""
    if name not in used:
        used[name] = models[name]
        for other in re.findall(r'"#/definitions/(\w+)"', json.dumps(models[name])):
            collect(other, models, used)


# --- README -----------------------------------------------------------------------------------------------------


def readme() -> str:
    """The page of the chart: the head of README.head.md, then every value."""
    head = (CHART / "README.head.md").read_text(encoding="utf-8")
    return "\n".join([head.rstrip(), "", "## Values", "", NOTE, "", *value_lines()]).rstrip() + "\n"


def value_lines() -> Iterator[str]:
    """A table for every top key."""
    values, rows = defaults(), documented()
    sections = {value.path[:-1] for value in rows}
    title = ""
    for value in rows:
        if value.path in sections:
            continue
        top = value.path[0] if len(value.path) > 1 else "single values"
        if top != title:
            title = top
            yield from ("", f"### {top}", "", "| key | default | |", "|---|---|---|")
        default = json.dumps(at(values, value.path), ensure_ascii=False)
        yield (
            "| "
            + " | ".join(text.replace("|", "\\|") for text in (f"`{'.'.join(value.path)}`", f"`{default}`", value.text))
            + " |"
        )


# --- files and renders ------------------------------------------------------------------------------------------


def render(values: dict[str, Any]) -> dict[str, str]:
    """Every template that gives something, rendered by Helm's engine, by its name."""
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        made = chart.render(values, name="demo", namespace="serving")
    return {name.removeprefix("triptych/templates/"): text for name, text in sorted(made.items()) if text.strip()}


def golden(made: dict[str, str]) -> str:
    """A render as one file of YAML, without what only repeats files of deploy/."""
    shown = {name: text for name, text in made.items() if name.endswith(".yaml") and name not in REPEATED}
    return "".join(f"---\n# {name}\n{text.strip()}\n" for name, text in shown.items())


def value_sets() -> list[Path]:
    """The files of ci/."""
    return sorted((CHART / "ci").glob("*-values.yaml"))


def copied() -> dict[Path, str]:
    """Files of deploy/ that the chart ships, by where they go."""
    sources = sorted([*DEPLOY.glob("dashboards/*.json"), *DEPLOY.glob("alerts.yaml")])
    return {CHART / "files" / source.name: source.read_text(encoding="utf-8") for source in sources}


def written() -> dict[Path, str]:
    """Everything that this program writes but the renders, which need it written."""
    made = {CHART / "values.schema.json": json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"}
    return {**made, CHART / "README.md": readme(), **copied()}


def main() -> int:
    """Write all of it, then lint; exit status 1 when Helm has a complaint."""
    import helm_python

    for file, text in written().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for values_file in value_sets():
        name = values_file.name.removesuffix("-values.yaml")
        made = render(yaml.safe_load(values_file.read_text(encoding="utf-8")))
        (GOLDEN / f"{name}.yaml").write_text(golden(made), encoding="utf-8")
    errors = helm_python.lint(CHART, strict=True)["errors"]
    print("\n".join(errors) or f"{CHART}: written, and Helm's lint has no complaint")
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
