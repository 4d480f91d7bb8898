"""Pairs that look alike and need other answers, in a word, a mark, an ending or who does it: none may pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.semcache.lexical import difference, features
from tests.unit.semcache.paraphrases import groups

TRAPS = [
    (group.same[0], other)
    for group in groups((Path(__file__).parent / "traps.txt").read_text())
    for other in group.other
]


@pytest.mark.parametrize(("one", "two"), TRAPS)
def test_a_trap_never_passes(one: str, two: str) -> None:
    assert difference(features(one), features(two)) and difference(features(two), features(one))
