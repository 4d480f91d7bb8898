"""Both tiers by hand-made vectors: what is found, what is kept, what leaves, each with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.core.clock import NS_PER_S
from services.core.config import parse
from services.core.request import FinishReason
from services.core.seeds import stream
from services.semcache.ann import FlatVectors
from services.semcache.cache import Hit, Miss, SemanticCache
from services.semcache.config import Scope, SemcacheConfig
from services.semcache.control import CacheControl
from services.semcache.gate import Answer, Asked
from services.semcache.key import Origin, make_key, scope_digest

S = NS_PER_S
ANSWER = Answer((5, 6, 2), FinishReason.STOP, prompt_tokens=9, seconds=1.0)
QUESTION, ALIKE, TRAP = "When was Rome founded?", "In what year was Rome founded?", "When was Oslo founded?"


def make_cache(**fields: Any) -> SemanticCache:
    return SemanticCache(parse(SemcacheConfig, fields), lambda: FlatVectors(4), stream(1, "cache"))


def ask(
    cache: SemanticCache, text: str = QUESTION, category: str = "faq", tenant: bytes = b"t", **fields: Any
) -> Asked:
    policy = cache.policies.policy((category,))
    origin = Origin(scope_digest(policy.scope, tenant, "key"), b"model")
    key = make_key(origin, {"max_tokens": 8}, [{"role": "user", "content": text}])
    epochs = cache.index.epochs(key.scope, policy.category)
    return Asked(**{"key": key, "policy": policy, "question_tokens": 8, "epochs": epochs} | fields)


def unit(*numbers: float) -> Any:
    vector = np.array([*numbers, *[0.0] * (4 - len(numbers))], np.float32)
    return vector / np.linalg.norm(vector)


def test_an_equal_request_is_a_hit_until_its_time_is_over() -> None:
    cache = make_cache()
    asked = ask(cache)
    assert cache.find_equal(0, asked) == Miss("exact", "absent")
    assert cache.keep(0, asked, ANSWER) == ""
    day = 86400 * S
    assert cache.find_equal(day - 1, asked) == Hit("exact", "c1", ANSWER, 1.0, (day - 1) / S)
    assert cache.find_equal(day, asked) == Miss("exact", "absent"), "the hit did not prolong it"
    assert cache.index.left == {"expired": 1}
    assert cache.counts["exact", "hit", "", "faq"] == 1 and cache.counts["exact", "miss", "absent", "faq"] == 2
    cache.check()


def test_a_question_of_the_same_meaning_is_a_hit_and_a_trap_is_none() -> None:
    cache = make_cache()
    assert cache.keep(0, ask(cache), ANSWER, unit(1, 0)) == ""
    near, far = unit(1, 0.3), unit(1, 1)
    found = cache.find_alike(S, ask(cache, "When was the city of Rome founded?"), near)
    assert found == Miss("semantic", "gate_words")
    found = cache.find_alike(S, ask(cache, "What year was Rome founded?"), near)
    assert isinstance(found, Hit) and found.tier == "semantic" and found.similarity == pytest.approx(0.958, abs=1e-3)
    assert cache.find_alike(S, ask(cache, "What year was Rome founded?"), far) == Miss("semantic", "similarity")
    assert cache.find_alike(S, ask(cache, TRAP), near) == Miss("semantic", "gate_words")
    assert cache.rejected == {"words": 2}
    assert cache.find_alike(S, ask(cache, tenant=b"u"), unit(1)) == Miss("semantic", "absent")
    assert cache.find_equal(S, ask(cache, tenant=b"u")) == Miss("exact", "absent")


def judged(asked: Asked, **sure: float) -> Asked:
    """A request that a judge may read."""
    return replace(asked, judged=sure)


def test_a_judge_may_overrule_words_that_the_gate_does_not_know() -> None:
    cache = make_cache()
    cache.keep(0, ask(cache), ANSWER, unit(1, 0))
    asked, near = judged(ask(cache, "When was the first stone of Rome laid?")), unit(1, 0.3)
    (doubt,) = cache.doubts(S, asked, near)
    for sure, given in ((0.0, False), (0.5, False), (1.0, True)):
        read = judged(asked, **{doubt.entry_id: sure})
        assert isinstance(cache.find_alike(S, read, near), Hit) == given
        assert not cache.doubts(S, read, near), "it was judged"
    assert not isinstance(cache.find_alike(S, judged(asked, another=1.0), near), Hit)
    assert not cache.doubts(S, replace(asked, judged=None), near), "nobody judges"


VETO = {"veto_below": 0.5}


def test_a_judge_may_keep_an_answer_back_that_the_gate_would_give() -> None:
    cache = make_cache(judge=VETO)
    cache.keep(0, ask(cache), ANSWER, unit(1, 0))
    asked, near = judged(ask(cache, "What year was Rome founded?")), unit(1, 0.3)
    assert cache.find_alike(S, asked, near) == Miss("semantic", "unread")
    (entry,) = cache.doubts(S, asked, near)
    for sure, given in ((0.0, False), (0.49, False), (0.51, True), (1.0, True)):
        found = cache.find_alike(S, judged(asked, **{entry.entry_id: sure}), near)
        assert isinstance(found, Hit) if given else found == Miss("semantic", "gate_judge")
    assert cache.rejected == {"judge": 2}
    trusting = make_cache()
    trusting.keep(0, ask(trusting), ANSWER, unit(1, 0))
    assert isinstance(trusting.find_alike(S, asked, near), Hit) and not trusting.doubts(S, asked, near)


def test_what_the_gate_agrees_with_is_read_first() -> None:
    cache = make_cache(judge=VETO)
    for place, known in enumerate(("When was the first stone of Rome laid?", "When was Rome founded?")):
        cache.keep(0, ask(cache, known), ANSWER, unit(1, 0.1 * place))
    asked = judged(ask(cache, "What year was Rome founded?"))
    (entry,) = cache.doubts(S, asked, unit(1, 0))
    assert entry.features is not None and entry.features.text == "When was Rome founded?"


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("When was Rome founded?", "When was Oslo founded?"),
        ("How do I buy 2 tickets?", "How do I get 3 tickets?"),
        ("Which foods may I eat?", "Which foods may I not eat?"),
        ("How do I get from Rome to Oslo?", "How do I travel from Oslo to Rome?"),
    ],
)
def test_no_judge_is_asked_about_names_numbers_and_negations(known: str, asked: str) -> None:
    cache = make_cache()
    cache.keep(0, ask(cache, known), ANSWER, unit(1, 0))
    assert not cache.doubts(S, judged(ask(cache, asked)), unit(1, 0.3))


def test_no_judge_is_asked_where_the_category_or_the_client_rules_it_out() -> None:
    cache = make_cache(categories={"strict": {"semantic": True, "min_similarity": 0.8}})
    other = "When was the first stone of Rome laid?"
    for category in ("strict", "faq"):
        cache.keep(0, ask(cache, category=category), ANSWER, unit(1, 0))
    assert not cache.doubts(S, judged(ask(cache, other, "strict")), unit(1, 0.3))
    assert cache.doubts(S, judged(ask(cache, other)), unit(1, 0.3))
    assert not cache.doubts(S, judged(ask(cache, other)), unit(1, 1)), "not near"
    assert not cache.doubts(S, judged(ask(cache, other, control=CacheControl(read=False))), unit(1, 0.3))
    assert not cache.doubts(90_000 * S, judged(ask(cache, other)), unit(1, 0.3)), "too old"


def test_the_gate_looks_beyond_the_nearest() -> None:
    cache = make_cache()
    cache.keep(0, ask(cache, TRAP), ANSWER, unit(1, 0.01))
    cache.keep(0, ask(cache, QUESTION), ANSWER, unit(1, 0.02))
    found = cache.find_alike(S, ask(cache, "What year was Rome founded?"), unit(1))
    assert isinstance(found, Hit) and found.entry_id == "c2"


def test_reader_and_writer_both_bind() -> None:
    cache = make_cache(categories={"strict": {"semantic": True, "min_similarity": 0.99}})
    cache.keep(0, ask(cache, category="strict"), ANSWER, unit(1, 0))
    looser = ask(cache, "What year was Rome founded?", "faq")
    assert cache.find_alike(0, looser, unit(1, 0.3)) == Miss("semantic", "similarity")
    assert isinstance(cache.find_alike(0, looser, unit(1, 0.01)), Hit)
    strict = replace(looser, control=CacheControl(min_similarity=0.999999))
    assert cache.find_alike(0, strict, unit(1, 0.01)) == Miss("semantic", "similarity")
    old = replace(looser, control=CacheControl(max_age_s=1))
    assert cache.find_alike(2 * S, old, unit(1, 0.01)) == Miss("semantic", "age")
    assert cache.find_equal(2 * S, replace(ask(cache, category="strict"), control=old.control)) == Miss("exact", "age")


def test_under_load_what_was_kept_before_is_found_at_the_floor_and_then_no_more() -> None:
    cache = make_cache(load={"enabled": True, "similarity_drop": 0.1, "similarity_floor": 0.75})
    cache.keep(0, ask(cache), ANSWER, unit(1, 0))
    cache.keep(0, ask(cache, "When was Lima founded?", "health"), ANSWER, unit(0, 0, 1))
    other, further = "What year was Rome founded?", unit(1, 0.95)

    def found(similar: Any, text: str = other, category: str = "faq") -> bool:
        return isinstance(cache.find_alike(S, ask(cache, text, category), similar), Hit)

    near = unit(1, 0.8)  # a cosine of 0.78; that of `further` is 0.72
    assert not found(near)
    for load, at_ease in ((0.82, False), (3.0, True), (0.98, True), (0.5, False)):
        cache.policies.observe_load(load)
        assert (found(near), found(further)) == (at_ease, False), "never below the floor"
        assert not found(unit(0, 0.6, 1), "What year was Lima founded?", "health"), "not adaptive"


def test_a_judge_decides_nothing_at_a_similarity_that_load_lowered() -> None:
    cache = make_cache(load={"enabled": True})
    cache.keep(0, ask(cache), ANSWER, unit(1, 0))
    cache.policies.observe_load(2.0)
    asked, near = judged(ask(cache, "When was the first stone of Rome laid?")), unit(1, 0.8)
    assert not cache.doubts(S, asked, near) and cache.doubts(S, asked, unit(1, 0.3))
    (entry,) = cache.doubts(S, asked, unit(1, 0.3))
    sure = judged(asked, **{entry.entry_id: 1.0})
    assert not isinstance(cache.find_alike(S, sure, near), Hit)
    assert isinstance(cache.find_alike(S, judged(ask(cache, "What year was Rome founded?")), near), Hit)


def test_under_load_what_was_kept_before_holds_for_longer_and_then_no_more() -> None:
    cache = make_cache(
        load={"enabled": True, "ttl_gain": 0.5}, categories={"faq": {"ttl_s": 10}, "tool": {"ttl_s": 10}}
    )
    limited = replace(ask(cache, "Where is Rome?"), control=CacheControl(ttl_s=10 - 1e-6))
    fixed = ask(cache, "How is Rome?", "health")
    for each in (ask(cache), limited):
        assert cache.keep(0, each, ANSWER, unit(1)) == ""
    cache.keep(0, fixed, ANSWER)

    def found(at_s: float, category: str = "faq", text: str = QUESTION) -> bool:
        asked = ask(cache, text, category)
        alike = isinstance(cache.find_alike(int(at_s * S), asked, unit(1)), Hit)
        assert alike == isinstance(cache.find_equal(int(at_s * S), asked), Hit)
        return alike

    for load, holds in ((0.5, False), (0.9, True), (0.5, False), (2.0, True)):
        cache.policies.observe_load(load)
        assert (found(9), found(12)) == (True, holds)
    assert found(14.9) and not found(12, text="Where is Rome?"), "a client's limit is one"
    assert not isinstance(cache.find_equal(3601 * S, fixed), Hit), "not adaptive"
    assert not found(15) and cache.index.left["expired"] >= 1


def test_load_prolongs_nothing_beyond_the_ceiling() -> None:
    load = {"enabled": True, "ttl_gain": 10, "ttl_ceiling_s": 25}
    cache = make_cache(load=load, categories={"faq": {"ttl_s": 10}, "knowledge": {"ttl_s": 30}})
    for category in ("faq", "knowledge"):
        cache.keep(0, ask(cache, f"What is {category}?", category), ANSWER)

    def found(at_s: float, category: str) -> bool:
        return isinstance(cache.find_equal(int(at_s * S), ask(cache, f"What is {category}?", category)), Hit)

    cache.policies.observe_load(2.0)
    assert found(24, "faq") and found(29, "knowledge"), "a TTL above the ceiling is kept"
    assert not found(26, "faq") and not found(31, "knowledge")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"control": CacheControl(read=False)}, "client"),
        ({"key": None}, "no_identity"),
        ({"category": "volatile"}, "category"),
        ({"temperature": 0.71}, "temperature"),
        ({"choices": 2}, "choices"),
        ({"scored": True}, "logprobs"),
    ],
)
def test_why_the_cache_is_not_looked_at(fields: dict[str, Any], reason: str) -> None:
    cache = make_cache()
    asked = ask(cache, **fields)
    assert cache.find_equal(0, asked) == Miss("exact", reason, bypass=True)
    assert cache.find_alike(0, asked, unit(1)) == Miss("semantic", reason, bypass=True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"category": "code"}, "exact_only"), ({"question_tokens": 3}, "short"), ({"question_tokens": 257}, "long")],
)
def test_why_meaning_is_not_looked_for(fields: dict[str, Any], reason: str) -> None:
    cache = make_cache()
    assert cache.find_alike(0, ask(cache, **fields), unit(1)) == Miss("semantic", reason, bypass=True)
    chat = ask(cache, category="chat")
    assert chat.key is not None
    later = replace(chat, key=replace(chat.key, turns=3))
    assert cache.find_alike(0, later, unit(1)) == Miss("semantic", "later_turn", bypass=True)


@pytest.mark.parametrize(
    ("asked", "answer", "reason"),
    [
        ({"control": CacheControl(write=False)}, {}, "client"),
        ({"category": "personal"}, {}, "category"),
        ({}, {"finish": FinishReason.LENGTH}, "unfinished"),
        ({}, {"finish": FinishReason.CANCELLED}, "unfinished"),
        ({}, {"reason": "STOP_STRING"}, "unfinished"),
        ({}, {"token_ids": (2,)}, "empty"),
        ({}, {"token_ids": (2,) * 5000}, "size"),
        ({"control": CacheControl(ttl_s=0)}, {}, "ttl"),
        ({"category": "none"}, {}, "quota"),
    ],
)
def test_why_an_answer_is_not_kept(asked: dict[str, Any], answer: dict[str, Any], reason: str) -> None:
    cache = make_cache(categories={"none": {"quota_share": 0}})
    assert cache.keep(0, ask(cache, **asked), replace(ANSWER, **answer)) == reason
    assert cache.skipped == {reason: 1} and not len(cache.index)


def test_an_answer_that_was_invalidated_while_it_was_computed_is_not_kept() -> None:
    cache = make_cache()
    before = ask(cache)
    assert before.key is not None
    assert cache.index.invalidate(before.key.scope, dry_run=True) == 0
    assert cache.index.invalidate(before.key.scope) == 0
    assert cache.keep(0, before, ANSWER) == "epoch"
    assert cache.keep(0, ask(cache), ANSWER) == ""
    assert cache.index.invalidate(scope_digest(Scope.TENANT, b"u", "")) == 0
    assert cache.index.invalidate(dry_run=True) == 1 and len(cache.index) == 1
    assert cache.index.invalidate() == 1 and cache.index.left == {"epoch": 1}


def test_an_invalidated_category_takes_the_answers_under_way_with_it_and_no_others() -> None:
    cache = make_cache()
    faq, code = ask(cache), ask(cache, "def f(x): return x", "code")
    assert cache.keep(0, faq, ANSWER) == cache.keep(0, code, ANSWER) == ""
    assert cache.index.invalidate(category="faq", dry_run=True) == 1 and len(cache.index) == 2
    assert cache.index.invalidate(category="faq") == 1
    assert isinstance(cache.find_equal(0, faq), Miss) and isinstance(cache.find_equal(0, code), Hit)
    assert cache.keep(0, faq, ANSWER) == "epoch" and cache.keep(0, ask(cache), ANSWER) == ""
    assert cache.keep(0, code, ANSWER) == ""


def test_a_bad_answer_leaves_and_does_not_come_back_in_its_time() -> None:
    cache = make_cache(categories={"faq": {"ttl_s": 10}})
    cache.keep(0, ask(cache), ANSWER, unit(1))
    assert cache.index.mark_bad(S, "c1") and not cache.index.mark_bad(S, "c1") and not cache.index.delete("c1")
    assert cache.keep(2 * S, ask(cache), ANSWER) == "bad"
    assert cache.keep(10 * S, ask(cache), ANSWER) == ""
    cache.check()


def test_a_category_borrows_and_gives_back() -> None:
    cache = make_cache(
        max_entries=10,
        categories={"faq": {"quota_share": 0.5}, "knowledge": {"quota_share": 0}, "chat": {"quota_share": 0}},
    )
    for number in range(12):
        cache.keep(number, ask(cache, f"code {number}", "code"), ANSWER)
    assert cache.index.entries("code") == 10 and cache.index.left == {"quota": 2}
    for number in range(12):
        assert cache.keep(20 + number, ask(cache, f"faq {number}"), ANSWER, unit(1, number)) == ""
        cache.check()
    assert (cache.index.entries("faq"), cache.index.entries("code")) == (7, 3), "both are 2 above"
    assert cache.index.left == {"quota": 2 + 5, "full": 7}


def test_what_was_dear_to_compute_stays() -> None:
    cache = make_cache(max_entries=5)
    dear = replace(ANSWER, seconds=1000.0)
    cache.keep(0, ask(cache, "dear"), dear)
    for number in range(30):
        cache.keep(S, ask(cache, f"cheap {number}"), ANSWER)
    assert isinstance(cache.find_equal(2 * S, ask(cache, "dear")), Hit)
