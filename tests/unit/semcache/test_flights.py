"""Equal requests: one is computed, the others wait, and nobody waits for nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.config import parse
from services.semcache.config import SemcacheConfig
from services.semcache.control import CacheControl
from services.semcache.flights import Flights, longest_wait_s, may_share
from services.semcache.gate import Asked
from services.semcache.key import Origin, make_key
from services.semcache.policy import PolicyTable

CONFIG = parse(SemcacheConfig, {})
KEY = make_key(Origin(b"scope", b"model"), {}, [{"role": "user", "content": "Why?"}])
ASKED = Asked(KEY, PolicyTable(CONFIG).policy(("faq",)))


def flight_of(*names: str) -> Flights:
    flights = Flights()
    assert [flights.join(name, "key") for name in names] == [False] + [True] * (len(names) - 1)
    return flights


def test_those_that_wait_are_named_when_the_answer_is_there() -> None:
    flights = flight_of("a", "b", "c")
    assert flights.answered("another key") == []
    assert flights.answered("key") == ["b", "c"]
    assert not len(flights) and flights.leave("a") == []
    assert not flights.join("d", "key"), "that flight is over"


def test_a_leader_that_fails_makes_the_next_one_and_no_more() -> None:
    flights = flight_of("a", "b", "c", "d")
    assert flights.leave("c") == [], "it only waited"
    assert flights.leave("a") == ["b"]
    assert flights.leave("b") == ["d"] and flights.leave("d") == []
    assert not len(flights)


def test_after_refused_answers_more_and_more_are_computed_at_once() -> None:
    names = [str(number) for number in range(9)]
    flights = flight_of(*names)
    assert flights.leave("0", refused=True) == ["1", "2"]
    assert flights.leave("1", refused=True) == ["3", "4", "5"], "four at once with the one that still runs"
    assert flights.leave("2", refused=True) == ["6", "7", "8"]


def test_a_key_that_is_known_later_names_the_same_flight() -> None:
    flights = flight_of("a", "b")
    flights.also("a", "whole key")
    flights.join("x", "taken")
    flights.also("a", "taken")
    assert flights.join("c", "whole key")
    flights.check()
    assert flights.answered("whole key") == ["b", "c"] and flights.answered("taken") == []
    assert not flights.join("d", "key")


def test_an_id_that_is_used_again_is_computed() -> None:
    flights = flight_of("a", "b")
    assert not flights.join("a", "other")
    flights.check()
    assert flights.leave("a") == ["b"]


@pytest.mark.parametrize(
    ("fields", "shared"),
    [
        ({}, True),
        ({"key": None}, False),
        ({"control": CacheControl(read=False)}, False),
        ({"control": CacheControl(write=False)}, False),
        ({"control": CacheControl(ttl_s=0)}, False),
        ({"temperature": 0.8}, False),
        ({"choices": 2}, False),
        ({"policy": PolicyTable(CONFIG).policy(("volatile",))}, False),
    ],
)
def test_who_takes_part(fields: dict[str, object], shared: bool) -> None:
    assert may_share(replace(ASKED, **fields), CONFIG) == shared  # type: ignore[arg-type]
    assert not may_share(replace(ASKED, **fields), parse(SemcacheConfig, {"singleflight_wait_s": 0}))  # type: ignore[arg-type]


def test_how_long_a_request_may_wait() -> None:
    assert longest_wait_s(CONFIG, 1e6, None) == 5
    assert longest_wait_s(CONFIG, 4, None) == 2, "half of what is left to its deadline"
    assert longest_wait_s(CONFIG, 4, 500) == 0.25, "half of the time to its first token"
    assert longest_wait_s(CONFIG, -1, 500) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("join", "join", "join", "also", "answered", "leave", "refused")),
            st.integers(0, 12),
            st.sampled_from(("k", "l", "m")),
        ),
        max_size=80,
    )
)
def test_nobody_is_left_waiting(operations: list[tuple[str, int, str]]) -> None:
    """Whoever waits is freed once: by an answer, by its turn, or by going away; until then somebody computes for it."""
    flights, waiting = Flights(), set[str]()
    for operation, number, key in operations:
        name, freed = str(number), list[str]()
        if operation == "join":
            if flights.join(name, key):
                assert name not in waiting
                waiting.add(name)
        elif operation == "also":
            flights.also(name, key)
        elif operation == "answered":
            freed = flights.answered(key)
        else:
            waiting.discard(name)
            freed = flights.leave(name, refused=operation == "refused")
        assert len(set(freed)) == len(freed) and waiting.issuperset(freed)
        waiting.difference_update(freed)
        flights.check()
    for name in [str(number) for number in range(13)] * 13:  # all that are computed end, one after the other
        if name not in waiting:
            waiting.difference_update(flights.leave(name))
    assert not waiting and not len(flights)
