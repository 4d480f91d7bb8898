"""The judge as a front door asks it, for tests that use the cache without one; each pair is judged once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from services.semcache.cache import SemanticCache, read
from services.semcache.embedder import MiniLm, PairJudge, bundled_embedder
from services.semcache.gate import Asked
from services.semcache.lexical import difference


@cache
def embedder() -> MiniLm:
    return MiniLm(bundled_embedder())


@cache
def judge() -> PairJudge:
    return PairJudge(embedder())


@cache
def sureness(asked: str, known: str) -> float:
    return judge().same(asked, known, twice=bool(difference(read(asked), read(known))))


def weighed(store: SemanticCache, now: int, asked: Asked) -> Asked:
    """A request with what the judge says of the questions that only words keep from it."""
    asked = replace(asked, judged={})
    doubts = store.doubts(now, asked, asked.vector)
    assert asked.key is not None
    question = asked.key.question or ""
    return replace(
        asked, judged={each.entry_id: sureness(question, each.features.text) for each in doubts if each.features}
    )
