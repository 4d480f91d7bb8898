"""The tree keeps its own rules; what each rule catches is shown in test_guards_catch.py."""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture import guards

ROOT = Path(__file__).resolve().parents[2]
GUARDS = [
    guards.rings,
    guards.hidden_inputs,
    guards.layers,
    guards.unlayered,
    guards.sizes,
    guards.docstrings,
    guards.inits,
    guards.stdlib_names,
    guards.strays,
    guards.kernels_distribution,
    guards.remote_decorators,
    guards.swallowed_cancels,
    guards.glossary,
    guards.simulator_modules,
    guards.unit_imports,
]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_the_tree_keeps_the_rule(guard: Callable[[Path], list[str]]) -> None:
    found = guard(ROOT)
    assert not found, f"{guard.__doc__}\n" + "\n".join(found)


def test_every_rule_has_files_to_look_at() -> None:
    names = {guards.name_of(ROOT, path) for path in guards.source_files(ROOT)}
    assert {"services/core/__init__.py", "kernels/__init__.py", "loadgen/__init__.py"} <= names


def test_the_name_kernels_is_ours_alone() -> None:
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("kernels")
    spec = importlib.util.find_spec("kernels")
    assert spec is not None
    assert spec.origin == str(ROOT / "kernels" / "__init__.py")
