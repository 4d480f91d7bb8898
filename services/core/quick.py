"""Frozen dataclasses that are made fast: a step of a worker, or a simulated request, makes hundreds of fields.

`dataclass(frozen=True)` sets each field by a call of `object.__setattr__`, which takes twenty times as long as an
assignment. Here an object is of a class without that guard while its fields are assigned, and of its own from then on.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


def quick(cls: type[T]) -> type[T]:
    """Give a `dataclass(frozen=True, slots=True)` an `__init__` of the same parameters; pays from four fields on.

    It is the decorator before that one. There is no `__post_init__`.
    """
    known: dict[str, Any] = {"_set": object.__setattr__, "_own": cls, "_missing": MISSING}
    parameters, body = ["self"], ["_set(self, '__class__', _open)"]
    for field in fields(cls):  # type: ignore[arg-type]
        name, given = field.name, field.name
        if field.default is not MISSING:
            known[f"_default_{name}"] = field.default
            parameters.append(f"{name}=_default_{name}")
        elif field.default_factory is not MISSING:
            known[f"_make_{name}"] = field.default_factory
            parameters.append(f"{name}=_missing")
            given = f"_make_{name}() if {name} is _missing else {name}"
        else:
            parameters.append(name)
        body.append(f"self.{name} = {given}")
    # Same slots, same layout: an object may change from one to the other.
    known["_open"] = type(cls.__name__, (), {"__slots__": tuple(field.name for field in fields(cls))})  # type: ignore[arg-type]
    lines = "\n    ".join([*body, "self.__class__ = _own"])
    exec(f"def __init__({', '.join(parameters)}):\n    {lines}\n", known)  # as `dataclass` itself does it
    made = known["__init__"]
    made.__qualname__, made.__annotations__ = f"{cls.__qualname__}.__init__", cls.__init__.__annotations__
    cls.__init__ = made  # type: ignore[method-assign]
    return cls
