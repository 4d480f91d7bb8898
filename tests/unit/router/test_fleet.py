"""What a front door counts on: its own promises, and those that other doors make by the same reports."""

from services.core.request import WorkerRef
from services.router.fleet import MOST_DOORS, Fleet, Row
from tests.unit.router.test_flow import report

REF = WorkerRef("prefill-0", 1)


def counted(*seen: tuple[int, int]) -> Row:
    """A worker's row after reports of (own dispatches, those of others); 100 tokens and two decodes are promised."""
    fleet = Fleet("door")
    for sequence, (mine, others) in enumerate([(0, 0), *seen], 1):
        load = {"queued_prefill_tokens": 1000, "running_decodes": 5, "context_tokens": 400}
        more = {"dispatch_sequence": mine, "others_dispatched": others}
        fleet.report(sequence, report(REF, ("prefill", "decode"), sequence, **load, **more))
    fleet.expect(REF, 100)
    fleet.place(REF, 2, 50)
    return fleet.rows["prefill-0"]


def test_the_only_door_counts_a_promise_once() -> None:
    row = counted((3, 0), (7, 0))
    assert (row.due, row.rows, row.held, row.doors) == (1100, 7, 450, 1.0)


def test_a_promise_counts_as_often_as_all_doors_together_send() -> None:
    row = counted((10, 30), (20, 60))
    assert 3.9 < row.doors < 4.1 and row.due - 1000 in range(390, 411) and row.rows == 13, row


def test_one_that_sends_all_or_nothing_counts_within_bounds() -> None:
    assert counted((0, 500)).doors == MOST_DOORS
    assert counted((0, 20), (2000, 20)).doors < 1.01
    assert counted((10, 30), (20, 5)).doors < counted((10, 30)).doors, "a door that left is forgotten by and by"
