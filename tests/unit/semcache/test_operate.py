"""What operators are told of near answers, and what they end."""

from __future__ import annotations

from typing import Any

from services.core.clock import NS_PER_S
from services.semcache.config import Scope
from services.semcache.control import CacheControl
from services.semcache.key import scope_digest
from services.semcache.operate import delete, explain, invalidate
from tests.unit.semcache.test_cache import ALIKE, ANSWER, QUESTION, TRAP, S, ask, make_cache, unit

FAR = "What does a badger eat?"


class Others:
    """What other front doors are told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def put(self, entry: Any, vector: Any) -> None:
        """Not looked at."""

    def delete(self, exact: str) -> None:
        self.told.append(("delete", exact))

    def invalidate(self, scope: bytes | None, category: str = "") -> None:
        self.told.append(("invalidate", scope, category))


def test_each_near_answer_has_its_reason_and_nothing_is_counted() -> None:
    cache = make_cache()
    for text, vector in ((QUESTION, unit(1)), (TRAP, unit(1, 0.05)), (FAR, unit(0, 1))):
        assert cache.keep(0, ask(cache, text), ANSWER, vector) == ""
    told = explain(cache, cache._config, S, ask(cache, ALIKE), unit(1, 0.01), 8)
    assert told.outcome == "hit" and not told.read_refused and not told.semantic_refused
    reasons = [each.refused_by for each in told.candidates]
    assert reasons[0] == "" and reasons[1].startswith("gate_") and reasons[2] == "similarity"
    assert [each.tier for each in told.candidates] == ["semantic"] * 3
    equal = explain(cache, cache._config, S, ask(cache, QUESTION), unit(1), 8)
    assert [each.tier for each in equal.candidates][:2] == ["exact", "semantic"] and equal.outcome == "hit"
    old = explain(cache, cache._config, 9 * S, ask(cache, QUESTION, control=CacheControl(max_age_s=5.0)), unit(1), 1)
    assert (old.outcome, old.candidates[0].refused_by) == ("miss", "age")
    never = explain(cache, cache._config, S, ask(cache, control=CacheControl(read=False)), unit(1), 8)
    assert (never.outcome, never.read_refused, never.candidates) == ("bypass", "client", ())
    assert not cache.counts and not cache.rejected
    assert all(each.entry.hits == 0 for each in told.candidates)


def test_other_front_doors_hear_of_what_ends_and_not_of_what_is_counted() -> None:
    cache, others = make_cache(), Others()
    cache.shared = others
    for text, tenant in ((QUESTION, b"t"), (FAR, b"t"), (QUESTION, b"u")):
        assert cache.keep(0, ask(cache, text, tenant=tenant), ANSWER) == ""
    mine = [scope_digest(Scope.TENANT, b"t", ""), scope_digest(Scope.KEY, b"t", "key")]
    assert invalidate(cache, mine, dry_run=True) == 2 and not others.told
    assert invalidate(cache, mine) == 2
    assert others.told == [("invalidate", scope, "") for scope in mine]
    assert invalidate(cache, None, "faq") == 1 and others.told[-1] == ("invalidate", None, "faq")
    assert cache.keep(0, ask(cache), ANSWER) == ""
    key = ask(cache).key
    assert key is not None
    assert delete(cache, NS_PER_S, key.exact, wrong=True) and not delete(cache, NS_PER_S, key.exact)
    assert others.told[-2:] == [("delete", key.exact)] * 2
    assert cache.keep(NS_PER_S, ask(cache), ANSWER) == "bad"
