"""Quickly made dataclasses are frozen, slotted, and like those that `dataclass` makes."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import pytest

from services.core.actions import WorkerReport
from services.core.quick import quick


@dataclass(frozen=True, slots=True)
class Plain:
    number: int
    name: str = "none"
    items: list[int] = field(default_factory=list)


@quick
@dataclass(frozen=True, slots=True)
class Quick:
    number: int
    name: str = "none"
    items: list[int] = field(default_factory=list)


def test_it_is_made_like_any_other() -> None:
    made = Quick(1, items=[2])
    assert repr(made) == repr(Plain(1, items=[2])).replace("Plain", "Quick")
    assert made == Quick(1, "none", [2]) != Quick(2, "none", [2])
    assert list(inspect.signature(Quick).parameters) == list(inspect.signature(Plain).parameters)
    assert type(made) is Quick and replace(made, name="a") == Quick(1, "a", [2])
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made
    assert Quick(1).items is not Quick(1).items


def test_it_is_frozen_and_has_no_room_for_more() -> None:
    made = Quick(1)
    with pytest.raises(FrozenInstanceError):
        made.number = 2  # type: ignore[misc]
    assert not hasattr(made, "__dict__")
    with pytest.raises(TypeError):
        Quick()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Quick(1, unknown=2)  # type: ignore[call-arg]


def test_actions_keep_their_fields_and_defaults() -> None:
    parameters = inspect.signature(WorkerReport).parameters
    assert [each.name for each in fields(WorkerReport)] == list(parameters)
    assert parameters["back_pressure"].default == "" and parameters["pid"].default is inspect.Parameter.empty
