"""Requests are due when the schedule or the turn before says, within the slots, and read only a little ahead."""

from collections.abc import Iterator
from functools import partial

from loadgen.pacer import Pacer
from loadgen.schedule import ScheduledRequest

S = 1_000_000_000


def request(index: int, at_s: float, session: str = "", **fields: object) -> ScheduledRequest:
    return ScheduledRequest(index, round(at_s * S), 1, 1, partial(list, [1]), session or f"s{index}", **fields)


def due(pacer: Pacer, at_s: float) -> list[tuple[int, float]]:
    pacer.read(round(at_s * S))
    return [(each.request.index, each.intended_ns / S) for each in pacer.due(round(at_s * S))]


def test_open_loop_requests_are_due_at_their_times_whatever_is_under_way() -> None:
    pacer = Pacer(iter([request(0, 0), request(1, 0.5), request(2, 2)]), S, 10)
    assert due(pacer, 0) == [(0, 0)]
    assert pacer.next_wake_ns() == S // 2
    assert due(pacer, 0.6) == [(1, 0.5)]
    assert due(pacer, 3) == [(2, 2)]
    assert not pacer.finished() and pacer.in_flight == 3


def test_the_schedule_is_read_only_a_lookahead_ahead() -> None:
    taken = []

    def requests() -> Iterator[ScheduledRequest]:
        for index in range(1000):
            taken.append(index)
            yield request(index, index)

    pacer = Pacer(requests(), S, 10)
    assert [each.index for each in pacer.read(0)] == [0, 1]
    assert len(taken) == 3


def test_a_closed_loop_turn_is_due_think_time_after_the_end_of_the_turn_before() -> None:
    turns = [
        request(0, 0, "a", last_turn=False),
        request(1, 0, "a", turn=1, last_turn=False, think_ns=2 * S),
        request(2, 0, "a", turn=2, think_ns=S),
        request(3, 0.1, "b"),
    ]
    pacer = Pacer(iter(turns), S, 10)
    assert due(pacer, 0.1) == [(0, 0), (3, 0.1)]
    assert pacer.next_wake_ns() is None
    pacer.ended(turns[0], 5 * S)
    assert due(pacer, 6.9) == []
    assert due(pacer, 7) == [(1, 7)]
    pacer.ended(turns[1], 8 * S)
    pacer.ended(turns[3], 8 * S)
    assert due(pacer, 9) == [(2, 9)]
    assert not pacer.finished()
    pacer.ended(turns[2], 10 * S)
    assert pacer.finished() and not pacer._sessions


def test_a_turn_read_after_the_end_of_the_turn_before_counts_from_that_end() -> None:
    first, second = request(0, 0, "a", last_turn=False), request(1, 100, "a", turn=1, think_ns=S)
    pacer = Pacer(iter([first, second]), S, 10)
    assert due(pacer, 0) == [(0, 0)]
    pacer.ended(first, 150 * S)
    assert due(pacer, 150.5) == []
    assert due(pacer, 151) == [(1, 151)]


def test_without_a_free_slot_requests_wait_and_keep_their_intended_time() -> None:
    requests = [request(index, 0) for index in range(4)]
    pacer = Pacer(iter(requests), S, 2)
    assert due(pacer, 0) == [(0, 0), (1, 0)]
    assert due(pacer, 1) == [] and pacer.waited == 1 and pacer.next_wake_ns() is None
    assert pacer.unsent(S) == 2
    pacer.ended(requests[0], 2 * S)
    assert due(pacer, 2) == [(2, 0)] and pacer.waited == 2
