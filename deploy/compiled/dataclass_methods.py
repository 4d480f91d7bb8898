"""Writes the methods of dataclasses out, so that they are compiled like all others.

`dataclass` makes them when a module is imported, and a compiler never sees them: an object of a compiled class would
be filled by interpreted code, field by field. Everything else of `dataclass` (`fields`, `replace`, `repr`, patterns)
stays. That a frozen class refuses assignments is left to mypy, which has looked at the same sources.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

WRITTEN_OUT = ["@final", "@dataclass(init=False, eq=False)"]
"""Decorators of such a class."""
FUTURE = "from __future__ import annotations\n"


@dataclass
class Field:
    """One field: parameter and value in `__init__` (None: it has none there), and whether it counts in comparisons."""

    name: str
    parameter: str
    value: str | None
    compared: bool


def written_out(source: str) -> str:
    """The same module with the methods of its dataclasses."""
    lines, tree = source.split("\n"), ast.parse(source)
    found = [each for each in tree.body if isinstance(each, ast.ClassDef) and _options(each) is not None]
    for cls in reversed(found):
        assert not cls.bases and cls.end_lineno is not None
        lines[cls.end_lineno : cls.end_lineno] = [f"    {line}" for line in _methods(cls)]
        lines[cls.decorator_list[0].lineno - 1 : cls.lineno - 1] = WRITTEN_OUT
    text = "\n".join(lines)
    return text.replace(FUTURE, f"{FUTURE}from typing import final\n", 1) if found else text


def _options(cls: ast.ClassDef) -> dict[str, bool] | None:
    """Arguments of its `dataclass`; None for any other class."""
    for each in cls.decorator_list:
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "dataclass":
            return {str(option.arg): ast.unparse(option.value) == "True" for option in each.keywords}
    return None


def _methods(cls: ast.ClassDef) -> list[str]:
    options, own = _options(cls) or {}, {each.name for each in cls.body if isinstance(each, ast.FunctionDef)}
    fields = [_field(each) for each in cls.body if isinstance(each, ast.AnnAssign)]
    given = [each for each in fields if each.value is not None]
    lines = [f"def __init__({', '.join(['self', *[each.parameter for each in given]])}) -> None:"]
    lines += [f"    self.{each.name} = {each.value}" for each in given]
    if "__post_init__" in own:
        lines.append("    self.__post_init__()")
    compared, compares = [each.name for each in fields if each.compared], options.get("eq", True)
    if compares and "__eq__" not in own:
        lines += [
            "def __eq__(self, other: object) -> bool:",
            f"    if not isinstance(other, {cls.name}):",
            "        return NotImplemented",
            f"    return {' and '.join(f'self.{name} == other.{name}' for name in compared) or True}",
        ]
    if options.get("frozen") and compares and "__hash__" not in own:
        lines += ["def __hash__(self) -> int:", f"    return hash(({_each(compared)}))"]
    if options.get("frozen"):  # a plan sends these to other processes
        names = [each.name for each in given]
        lines += ["def __reduce__(self) -> tuple[object, ...]:", f"    return {cls.name}, ({_each(names)})"]
    return lines


def _each(names: list[str]) -> str:
    return "".join(f"self.{name}, " for name in names)


def _field(node: ast.AnnAssign) -> Field:
    name, kind = ast.unparse(node.target), ast.unparse(node.annotation)
    if not isinstance(node.value, ast.Call) or ast.unparse(node.value.func) != "field":
        default = "" if node.value is None else f" = {ast.unparse(node.value)}"
        return Field(name, f"{name}: {kind}{default}", name, True)
    options = {str(option.arg): option.value for option in node.value.keywords}
    compared = "compare" not in options
    if "init" in options:
        return Field(name, "", None, compared)
    if "default" in options:
        return Field(name, f"{name}: {kind} = {ast.unparse(options['default'])}", name, compared)
    make = options["default_factory"]
    made = ast.unparse(make.body) if isinstance(make, ast.Lambda) else f"{ast.unparse(make)}()"
    return Field(name, f"{name}: {kind} | None = None", f"{made} if {name} is None else {name}", compared)
