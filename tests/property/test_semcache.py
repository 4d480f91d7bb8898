"""Random lives of a cache against a plain list: no foreign, old or refused answer is ever given; books agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.core.clock import NS_PER_S
from services.core.config import parse
from services.core.request import FinishReason
from services.core.seeds import stream
from services.semcache.ann import FlatVectors
from services.semcache.cache import Hit, SemanticCache
from services.semcache.config import SemcacheConfig
from services.semcache.gate import Answer, Asked
from services.semcache.key import Origin, make_key, scope_digest

CATEGORIES = ("faq", "code", "chat", "volatile")
WORDS = ("Rome", "Oslo", "Lima", "Cairo")
WAYS = ("When was {} founded?", "What year was {} founded?", "When was {} not founded?")
CONFIG = parse(
    SemcacheConfig,
    {
        "max_entries": 6,
        "max_bytes": 2**16,
        "categories": {"faq": {"ttl_s": 5}, "code": {"ttl_s": 3}, "chat": {"ttl_s": 9}},
    },
)
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(("ask", "ask", "keep", "keep", "keep", "invalidate", "bad", "delete", "everything")),
        st.sampled_from(CATEGORIES),
        st.sampled_from((b"a", b"b")),
        st.sampled_from(WORDS),
        st.integers(0, len(WAYS) - 1),
        st.integers(0, NS_PER_S),
    ),
    max_size=60,
)


@dataclass
class Kept:
    """An answer that was kept: of whom, to what, until when."""

    tenant: bytes
    word: str
    negated: bool
    expires: int
    valid: bool = True


class Life:
    """A cache and the list of what was kept in it."""

    def __init__(self) -> None:
        self.cache = SemanticCache(CONFIG, lambda: FlatVectors(4), stream(3, "life"))
        self.kept: dict[int, Kept] = {}
        self.names: dict[str, int] = {}

    def asked(self, category: str, tenant: bytes, word: str, way: int) -> tuple[Asked, Any]:
        policy = self.cache.policies.policy((category,))
        origin = Origin(scope_digest(policy.scope, tenant, "k"), b"m")
        key = make_key(origin, {}, [{"role": "user", "content": WAYS[way].format(word)}])
        vector = np.zeros(4, np.float32)
        vector[0] = 1  # all questions look alike: the gate alone tells them apart
        epochs = self.cache.index.epochs(key.scope, policy.category)
        return Asked(key, policy, question_tokens=9, epochs=epochs), vector

    def step(self, now: int, operation: str, category: str, tenant: bytes, word: str, way: int) -> None:
        asked, vector = self.asked(category, tenant, word, way)
        assert asked.key is not None
        index = self.cache.index
        if operation == "keep":
            number = len(self.kept) + 100
            answer = Answer((number, 2), FinishReason.STOP, seconds=number)
            if not self.cache.keep(now, asked, answer, vector):
                self.kept[number] = Kept(tenant, word, way == 2, now + asked.policy.ttl_ns)
        elif operation == "ask":
            for found in (self.cache.find_equal(now, asked), self.cache.find_alike(now, asked, vector)):
                if isinstance(found, Hit):
                    self.names[found.entry_id] = found.answer.token_ids[0]
                    self.judge(now, found, tenant, word, way == 2)
        elif operation == "invalidate":
            index.invalidate(asked.key.scope)
            self.end(lambda each: each.tenant == tenant)
        elif operation == "everything":
            index.invalidate()
            self.end(lambda each: True)
        elif self.names:
            name, number = self.names.popitem()
            (index.mark_bad(now, name) if operation == "bad" else index.delete(name))
            self.kept[number].valid = False

    def end(self, which: Callable[[Kept], bool]) -> None:
        for each in self.kept.values():
            each.valid = each.valid and not which(each)

    def judge(self, now: int, hit: Hit, tenant: bytes, word: str, negated: bool) -> None:
        kept = self.kept[hit.answer.token_ids[0]]
        assert kept.valid and now < kept.expires
        assert (kept.tenant, kept.word, kept.negated) == (tenant, word, negated)


@given(OPERATIONS)
def test_no_answer_but_the_right_one(operations: list[tuple[str, str, bytes, str, int, int]]) -> None:
    life, now = Life(), 0
    for operation, category, tenant, word, way, pause in operations:
        now += pause
        life.step(now, operation, category, tenant, word, way)
        life.cache.check()
        assert not life.cache.index.entries("volatile")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=80), st.integers(1, 8))
def test_vectors_against_brute_force(operations: list[tuple[bool, int]], count: int) -> None:
    vectors, plain = FlatVectors(3), dict[str, Any]()
    for add, number in operations:
        name = str(number)
        if add and name not in plain:
            turned = np.array([np.cos(number), np.sin(number), 0.5], np.float32)
            plain[name] = turned / np.linalg.norm(turned)
            vectors.add(name, plain[name])
        elif not add and name in plain:
            del plain[name]
            vectors.remove(name)
        vectors.check()
    wanted = np.array([1, 0, 0], np.float32)
    found = vectors.nearest(wanted, count)
    best = sorted((float(each @ wanted) for each in plain.values()), reverse=True)[:count]
    assert [cosine for cosine, _ in found] == best or np.allclose([cosine for cosine, _ in found], best)
    assert len({name for _, name in found}) == len(found)


@given(st.floats(0.7, 1), st.floats(0, 0.3), st.floats(0, 3))
def test_a_higher_threshold_never_adds_hits(least: float, more: float, turn: float) -> None:
    def hit(minimum: float) -> bool:
        cache = SemanticCache(CONFIG, lambda: FlatVectors(4), stream(3, "life"))
        policy = replace(cache.policies.policy(("faq",)), min_similarity=minimum)
        origin = Origin(b"s", b"m")
        one, two = (make_key(origin, {}, [{"role": "user", "content": way.format("Rome")}]) for way in WAYS[:2])
        writer = Asked(one, replace(policy, min_similarity=0.7, written_similarity=0.7), question_tokens=9)
        cache.keep(0, writer, Answer((1, 2), FinishReason.STOP), np.array([1, 0, 0, 0], np.float32))
        turned = np.array([np.cos(turn), np.sin(turn), 0, 0], np.float32)
        return isinstance(cache.find_alike(0, Asked(two, policy, question_tokens=9), turned), Hit)

    assert hit(least) or not hit(min(least + more, 1.0))
