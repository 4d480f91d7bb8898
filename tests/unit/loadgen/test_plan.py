"""Plans: exact times, lengths that keep the sharing, chains of turns, faults from streams of their own, refusals."""

from __future__ import annotations

import dataclasses
import pickle
from collections import Counter
from typing import Any

import pytest

from loadgen.pacer import Pacer
from loadgen.plan import Clients, Lengths, Plan, chained
from loadgen.schedule import Prompt, ScheduledRequest
from loadgen.survey import PrefixTree
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow

S = 1_000_000_000


def words(row: WorkloadRow, own: str) -> Prompt:
    return f"{row.input_tokens} of {own}"


def plan(rows: list[WorkloadRow], **fields: Any) -> Plan:
    return Plan(rows, words, **fields)


def test_times_and_lengths_are_the_rows_own() -> None:
    rows = [WorkloadRow(0.1 * place, 10 + place, 5, tenant="t", category="c", images=1) for place in range(500)]
    requests = list(plan(rows)())
    assert [each.intended_ns for each in requests] == [place * S // 10 for place in range(500)]
    assert [(each.index, each.input_tokens, each.output_tokens) for each in requests] == [
        (place, 10 + place, 5) for place in range(500)
    ]
    assert requests[7].prompt() == "17 of 7" and (requests[7].tenant, requests[7].category) == ("t", "c")
    assert all(each.last_turn and each.think_ns is None and not each.fault for each in requests)
    assert len({each.session for each in requests}) == 500


def test_a_window_at_twice_the_speed() -> None:
    rows = [WorkloadRow(float(at), 10, 5) for at in range(100)]
    requests = list(plan(rows, start_s=20.0, length_s=10.0, speed=2.0)())
    assert [each.intended_ns for each in requests] == [place * S // 2 for place in range(10)]


def test_scaled_blocks_keep_the_sharing() -> None:
    rows = [
        WorkloadRow(0.0, tokens, 100, prefix=prefix, prefix_block_tokens=512)
        for tokens, prefix in (
            (1024, (1, 2)), (1100, (1, 2, 3)), (513, (1, 9)), (512, (1,)), (1, (7,)), (1025, (1, 2, 3))
        )
    ]  # fmt: skip
    for scale in (1 / 32, 0.1, 0.0001, 1.0, 3.0):
        changes: Counter[str] = Counter()
        fitted = [Lengths(scale, 1.0).fit(row, changes) for row in rows]
        assert all(len(row.prefix) == -(-row.input_tokens // row.prefix_block_tokens) for row in fitted)
        before, after = PrefixTree(), PrefixTree()
        for row, short in zip(rows, fitted, strict=True):
            assert before.add(row.prefix) == after.add(short.prefix)
        assert changes == ({"prompts 0.00195 times as long: blocks are whole tokens": 6} if scale == 0.0001 else {})
    assert fitted[1].input_tokens == 3300
    assert Lengths(1 / 32).fit(rows[1], Counter()).input_tokens == 2 * 16 + 3


def test_cuts_are_counted_and_keep_the_beginning() -> None:
    changes: Counter[str] = Counter()
    row = Lengths(1, 0.5, 600, 20).fit(WorkloadRow(0.0, 1100, 100, prefix=(1, 2, 3), prefix_block_tokens=512), changes)
    assert (row.input_tokens, row.output_tokens, row.prefix) == (600, 20, (1, 2))
    failed = Lengths(0.25, 0.5).fit(WorkloadRow(0.0, 0, 0, failed=True), changes)
    assert Lengths().fit(WorkloadRow(0.0, 10, 0), changes).output_tokens == 1
    assert (failed.input_tokens, failed.output_tokens) == (32, 64)
    assert dict(changes) == {
        "prompts cut to 600 tokens": 1,
        "outputs cut to 20 tokens": 1,
        "prompts of failed requests, whose length the trace does not know": 1,
        "outputs of failed requests, whose length the trace does not know": 1,
        "outputs of 0 tokens raised to 1": 1,
    }


def test_failed_rows_disconnect_or_are_left_out() -> None:
    rows = [WorkloadRow(float(place), 10, 0 if place == 1 else 5, failed=place == 1) for place in range(3)]
    assert [each.fault for each in plan(rows)()] == ["", "disconnect", ""]
    assert [each.leave_after_tokens for each in plan(rows)()] == [None, 1, None]
    changes: Counter[str] = Counter()
    left = plan(rows, clients=Clients("leave-out"))
    assert [each.at_ns for each in left.planned(changes)] == [0, 2 * S]
    assert changes == {"failed requests left out": 1}


def test_each_kind_of_fault_is_drawn_alone_and_by_the_seed() -> None:
    rows = [WorkloadRow(float(place), 10, 20) for place in range(2000)]

    def faults(seed: int, **clients: Any) -> list[ScheduledRequest]:
        return list(plan(rows, seed=seed, clients=Clients(**clients))())

    both = faults(1, disconnect_share=0.1, slow_reader_share=0.2, deadline_s=3.0)
    count = Counter(each.fault for each in both)
    assert count["disconnect"] == pytest.approx(200, abs=50) and count["slow_reader"] == pytest.approx(360, abs=70)
    assert all(each.deadline_ns == 3 * S for each in both)
    left = {each.index: each.leave_after_tokens for each in both if each.leave_after_tokens is not None}
    assert set(left.values()) == set(range(1, 20))
    alone = {each.index: each.leave_after_tokens for each in faults(1, disconnect_share=0.1) if each.fault}
    assert alone == left  # one kind more changes no other
    assert alone.keys() <= {each.index for each in faults(1, disconnect_share=0.2) if each.fault}
    assert alone != {each.index: each.leave_after_tokens for each in faults(2, disconnect_share=0.1) if each.fault}


TURNS = [
    WorkloadRow(0.0, 10, 5, "a", 0),
    WorkloadRow(1.0, 10, 5, "b", 0),
    WorkloadRow(4.0, 20, 5, "a", 1, think_s=0.5),
    WorkloadRow(5.0, 20, 5, "a", 2),  # did not wait
    WorkloadRow(6.0, 30, 5, "a", 3, think_s=0.25),
    WorkloadRow(7.0, 30, 5, "gone", 4, think_s=9.0),  # its predecessors are outside the window
    WorkloadRow(8.0, 30, 5),
]


def test_turns_are_chains_and_can_be_read_before_they_are_due() -> None:
    found = list(chained(enumerate(TURNS)))
    assert [(each.session, each.row.turn, each.at_ns, each.think_ns, each.last_turn) for each in found] == [
        ("a", 0, 0, None, False),
        ("a", 1, S // 2, S // 2, True),
        ("b", 0, S, None, True),
        ("a+1", 2, 5 * S, None, False),
        ("a+1", 3, 5 * S + S // 4, S // 4, True),
        ("gone", 4, 7 * S, None, True),
        ("request-6", 0, 8 * S, None, True),
    ]
    opened = list(plan(TURNS, closed_loop=False)())
    assert [each.intended_ns for each in opened] == [round(row.arrival_s * S) for row in TURNS]
    assert all(each.think_ns is None and each.last_turn for each in opened)
    assert [each.prompt() for each in sorted(plan(TURNS)(), key=lambda x: int(str(x.prompt()).split()[-1]))] == [
        each.prompt() for each in opened
    ]  # a row's prompt does not depend on how turns are paced


def test_every_turn_is_due_when_the_turn_before_ended_and_its_pause_is_over() -> None:
    pacer, now_ns, sent, ends = Pacer(plan(TURNS)(), S, 99), 0, {}, {}
    under_way: list[tuple[int, ScheduledRequest]] = []
    while not pacer.finished():
        pacer.read(now_ns)
        for due in pacer.due(now_ns):
            sent[due.request.session, due.request.turn] = due.intended_ns
            under_way.append((now_ns + S // 10, due.request))
        for end_ns, request in [each for each in under_way if each[0] <= now_ns]:
            under_way.remove((end_ns, request))
            ends[request.session, request.turn] = now_ns
            pacer.ended(request, now_ns)
        now_ns += S // 1000
        assert now_ns < 20 * S
    assert len(sent) == len(TURNS)
    assert sent["a", 1] == ends["a", 0] + S // 2 and sent["a+1", 3] == ends["a+1", 2] + S // 4


def test_a_plan_travels_to_other_processes() -> None:
    original = plan(TURNS, dither_s=1.0, clients=Clients(disconnect_share=0.5), lengths=Lengths(0.5))

    def told(requests: Any) -> list[Any]:
        names = [each.name for each in dataclasses.fields(ScheduledRequest) if each.name != "prompt"]
        return [[getattr(each, name) for name in names] + [each.prompt()] for each in requests]

    assert told(pickle.loads(pickle.dumps(original))()) == told(original())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Lengths(0), "--length-scale = 0"),
        (lambda: Lengths(1, -1), "--output-scale = -1"),
        (lambda: Lengths(max_input_tokens=0), "--max-input-tokens = 0"),
        (lambda: Lengths(max_output_tokens=-5), "--max-output-tokens = -5"),
        (lambda: Clients("forget"), "--failed-rows = 'forget': use one of disconnect, leave-out"),
        (lambda: Clients(disconnect_share=1.5), "--disconnect-share = 1.5"),
        (lambda: Clients(slow_reader_share=-0.1), "--slow-reader-share = -0.1"),
        (lambda: Clients(read_delay_s=0), "--read-delay-s = 0"),
        (lambda: Clients(deadline_s=float("nan")), "--deadline-s = nan"),
        (lambda: list(plan(TURNS, speed=-2.0)()), "--scale = -2.0"),
        (lambda: list(plan(TURNS, dither_s=-1.0)()), "--dither-s = -1.0"),
        (lambda: list(plan(TURNS, keep_sessions=0.0)()), "--keep-sessions = 0.0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
