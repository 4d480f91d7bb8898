"""Whether two answers say the same, and what that tells of the cache: an estimate of its precision by category."""

from __future__ import annotations

import re
from collections import Counter

from services.semcache.config import ShadowConfig

NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
RIGHT, WRONG = "right", "wrong"
"""Verdicts that count; others (failed, skipped) say nothing of an answer."""


def same_answer(given: str, computed: str, similarity: float, config: ShadowConfig) -> bool:
    """Whether the answer that was given says what the model says.

    Equal but for case and spaces; else near in meaning and with the same numbers, which embeddings do not see.

    Args:
        similarity: cosine of the two; not looked at where the words are equal.
    """
    words = [each.casefold().split() for each in (given, computed)]
    if words[0] == words[1]:
        return True
    numbers = [Counter(NUMBER.findall(each)) for each in (given, computed)]
    return similarity >= config.min_similarity and numbers[0] == numbers[1]


def precision(verdicts: Counter[tuple[str, str]]) -> dict[str, float]:
    """Share of the judged semantic hits whose answer was right, by category.

    Args:
        verdicts: counts by (verdict, category).
    """
    found: dict[str, float] = {}
    for category in dict.fromkeys(category for verdict, category in verdicts if verdict in (RIGHT, WRONG)):
        right = verdicts[RIGHT, category]
        found[category] = right / (right + verdicts[WRONG, category])
    return found
