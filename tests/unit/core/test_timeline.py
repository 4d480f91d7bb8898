"""A request's marks become stages that lie end to end, whatever happened to it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.timeline import MarkKind, Stage, Timeline

DOOR = ("received", "tokenized", "cache_answered", "dispatched", "retried", "continued")
DECODING = ("handoff_offered", "handoff_granted", "handoff_committed", "decode_start", "finished")


def timeline(*marks: tuple[str, int]) -> Timeline:
    """Marks at microseconds, each where it happens."""
    made = Timeline()
    for name, at_us in marks:
        where = "door" if name in DOOR else "decode-0" if name in DECODING else "prefill-0"
        made.add(MarkKind(name), at_us * 1000, where, 1)
    return made


def told(made: Timeline, end_us: int) -> list[tuple[str, str, int, int]]:
    """(stage, where, start, end) in microseconds."""
    found = made.stages(end_us * 1000)
    return [(each.stage.value, each.where, each.start_ns // 1000, each.end_ns // 1000) for each in found]


START = (("received", 0), ("tokenized", 2))


def test_every_stage_of_a_request_that_was_handed_over() -> None:
    # As they reach the front door: what decode says comes before the end of what prefill says.
    marks = ("dispatched", 4), ("handoff_offered", 21), ("handoff_granted", 25), ("handoff_committed", 30)
    more = ("decode_start", 33), ("finished", 60), ("queued", 5), ("prefill_start", 8), ("prefill_end", 20)
    assert told(timeline(*START, ("cache_answered", 3), *marks, *more), 61) == [
        ("receive", "door", 0, 2),
        ("cache", "door", 2, 3),
        ("route", "door", 3, 4),
        ("dispatch", "door", 4, 5),
        ("queue", "prefill-0", 5, 8),
        ("prefill", "prefill-0", 8, 20),
        ("handoff", "prefill-0", 20, 30),
        ("decode", "decode-0", 30, 60),
        ("deliver", "decode-0", 60, 61),
    ]


@pytest.mark.parametrize(
    ("marks", "stages"),
    [
        ((("cache_answered", 3), ("finished", 4)), ["receive", "cache", "route", "deliver"]),
        (
            (("dispatched", 4), ("queued", 5), ("prefill_start", 6), ("prefill_end", 7), ("decode_start", 8)),
            ["receive", "route", "dispatch", "queue", "prefill", "decode"],
        ),
        (
            (("dispatched", 4), ("queued", 5), ("prefill_start", 6), ("prefill_end", 7), ("retried", 8), ("queued", 9)),
            ["receive", "route", "dispatch", "queue", "prefill", "handoff", "dispatch", "queue"],
        ),
        (
            (("dispatched", 4), ("handoff_offered", 6), ("prefill_end", 7), ("handoff_committed", 8), ("preempted", 9)),
            ["receive", "route", "dispatch", "handoff", "decode", "recompute"],
        ),
        ((("finished", 5),), ["receive", "route", "deliver"]),
    ],
    ids=["found in the cache", "decoded where it was prefilled", "retried", "early grant and preempted", "refused"],
)
def test_other_lives(marks: tuple[tuple[str, int], ...], stages: list[str]) -> None:
    assert [stage for stage, *_ in told(timeline(*START, *marks), 10)] == stages


@given(st.lists(st.tuples(st.sampled_from(MarkKind), st.integers(0, 50)), min_size=1), st.integers(0, 60))
def test_stages_add_up_to_the_whole_whatever_the_marks_say(marks: list[tuple[MarkKind, int]], end: int) -> None:
    made = Timeline()
    for kind, at in marks:
        made.add(kind, at, "x", 1)
    stages = made.stages(end)
    assert all(before.end_ns == after.start_ns for before, after in pairwise(stages))
    assert all(stage.start_ns <= stage.end_ns for stage in stages)
    if stages:
        assert (
            sum(stage.end_ns - stage.start_ns for stage in stages) == max(end, stages[0].start_ns) - stages[0].start_ns
        )
    assert {stage.stage for stage in stages} <= set(Stage)
