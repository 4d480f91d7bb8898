"""The gate on our own questions: no trap and no other question passes, and most other wordings do."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest

from services.semcache.lexical import difference, features
from tests.unit.semcache.paraphrases import MEASURED, TUNED, Group


@pytest.mark.parametrize(("groups", "least"), [(TUNED, 0.75), (MEASURED, 0.6)], ids=["tuned", "measured"])
def test_only_other_wordings_pass(groups: tuple[Group, ...], least: float) -> None:
    read = {text: features(text) for group in groups for text in (*group.same, *group.other)}
    named = [(place, text) for place, group in enumerate(groups) for text in group.same]
    strangers = [(place, text) for place, group in enumerate(groups) for text in group.other]
    for (one, asked), (two, known) in (*combinations(named, 2), *((a, b) for a in named for b in strangers)):
        if one != two or known in groups[two].other:
            assert difference(read[asked], read[known]), (asked, known)
    passed = [not difference(read[one], read[two]) for group in groups for one, two in permutations(group.same, 2)]
    assert sum(passed) / len(passed) >= least
