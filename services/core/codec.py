"""Events, actions and messages as JSON values and back, and the canonical text of a state."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Any

from services.core import actions, batch, door, output, peer, request, timeline, worker_report

Json = Any
"""A value that `json` writes."""


@lru_cache(maxsize=1)
def _types() -> dict[str, type]:
    """Every dataclass and enum that may stand in a log, by name."""
    found: dict[str, type] = {}
    for module in (actions, batch, door, output, peer, request, timeline, worker_report):
        for name, value in vars(module).items():
            if isinstance(value, type) and (dataclasses.is_dataclass(value) or issubclass(value, StrEnum)):
                found[name] = value
    return found


_PLAIN = frozenset((int, str, float, bool, type(None)))
"""Types that JSON has."""


class _FieldNames(dict[type[Any], tuple[str, ...]]):
    """Names of a dataclass's fields, asked for once."""

    def __missing__(self, cls: type[Any]) -> tuple[str, ...]:
        assert dataclasses.is_dataclass(cls), f"{cls.__name__} cannot be logged"
        found = self[cls] = tuple(field.name for field in dataclasses.fields(cls))
        return found


_FIELD_NAMES = _FieldNames()


def encode(value: object) -> Json:
    """Plain JSON; dataclasses and enums carry their type's name, bytes are hex, tuples are lists."""
    cls = type(value)
    if cls in _PLAIN:
        return value
    if isinstance(value, tuple | list):
        return list(value) if _all_plain(value) else [encode(each) for each in value]
    if isinstance(value, bytes):
        return {"_": "bytes", "v": value.hex()}
    if isinstance(value, StrEnum):
        return {"_": cls.__name__, "v": value.value}
    if isinstance(value, int | float | str):
        return value
    encoded: dict[str, Json] = {"_": cls.__name__}
    for name in _FIELD_NAMES[cls]:
        each = getattr(value, name)
        encoded[name] = each if type(each) in _PLAIN else encode(each)
    return encoded


def _all_plain(values: tuple[Any, ...] | list[Any]) -> bool:
    """Prompts are long; looking at their types is ten times faster than a call for each token."""
    return _PLAIN.issuperset(map(type, values))


def decode(data: Json) -> Any:
    """The value that `encode` wrote; lists come back as tuples.

    Raises:
        ValueError: an unknown type name.
    """
    if isinstance(data, list):
        return tuple(data) if _all_plain(data) else tuple([decode(each) for each in data])
    if not isinstance(data, dict):
        return data
    name = data["_"]
    if name == "bytes":
        return bytes.fromhex(data["v"])
    cls = _types().get(name)
    if cls is None:
        raise ValueError(f"unknown type {name!r} in a decision log")
    if "v" in data and issubclass(cls, StrEnum):
        return cls(data["v"])
    return cls(**{key: each if type(each) in _PLAIN else decode(each) for key, each in data.items() if key != "_"})


def canonical(value: object) -> str:
    """One text for one state: dict order kept, floats as hex, so that equal texts mean equal behaviour."""
    if value is None or isinstance(value, bool | StrEnum | str):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    return _CANONICAL[type(value)](value)


_CANONICAL: dict[type, Callable[[Any], str]] = {
    float: lambda value: value.hex(),
    bytes: lambda value: f'"{value.hex()}"',
    list: lambda value: f"[{','.join(map(canonical, value))}]",
    tuple: lambda value: f"[{','.join(map(canonical, value))}]",
    dict: lambda value: "{" + ",".join(f"{canonical(k)}:{canonical(v)}" for k, v in value.items()) + "}",
}
