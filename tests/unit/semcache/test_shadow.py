"""What counts as the same answer, and the precision that it tells of."""

from __future__ import annotations

from collections import Counter

import pytest

from services.core.config import parse
from services.semcache.config import ShadowConfig
from services.semcache.shadow import precision, same_answer

CONFIG = parse(ShadowConfig, {"min_similarity": 0.9})


@pytest.mark.parametrize(
    ("given", "computed", "similarity", "same"),
    [
        ("Lima is the capital.", " lima IS the capital.", 0.0, True),
        ("Lima is the capital.", "The capital is Lima.", 0.95, True),
        ("Lima is the capital.", "The capital is Quito.", 0.85, False),
        ("It was founded in 1535.", "It was founded in 1534.", 0.99, False),
        ("From 9:30 to 17:00.", "It is open 9:30 to 17:00.", 0.95, True),
        ("It costs 1,200.50 euros.", "It costs 1,200 euros.", 0.99, False),
    ],
)
def test_what_says_the_same(given: str, computed: str, similarity: float, same: bool) -> None:
    assert same_answer(given, computed, similarity, CONFIG) == same


def test_precision_is_of_what_was_judged() -> None:
    verdicts = Counter({("right", "faq"): 3, ("wrong", "faq"): 1, ("failed", "faq"): 9, ("skipped", "chat"): 2})
    assert precision(verdicts) == {"faq": 0.75}
    assert verdicts.total() == 15, "looking counts nothing"
