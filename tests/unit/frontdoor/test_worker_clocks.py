"""Workers' times on the front door's clock."""

from __future__ import annotations

from services.core.clock import NS_PER_MS, NS_PER_S
from services.core.door import StreamItem
from services.core.request import WorkerRef
from services.frontdoor.worker_clocks import WINDOW_NS, WorkerClocks

HERE, ELSEWHERE = 7, 8
WORKER = WorkerRef("decode-0", 1)


def item(sent_ns: int, domain: int, worker: WorkerRef = WORKER) -> StreamItem:
    return StreamItem("s", 1, sent_ns, worker, 1, None, (), domain)


def test_one_host_has_one_clock_however_long_an_item_took() -> None:
    clocks = WorkerClocks(HERE)
    assert clocks.offset_ns(item(1000, HERE), 50 * NS_PER_MS) == 0


def test_an_unknown_domain_is_equal_to_no_other() -> None:
    assert WorkerClocks(0).offset_ns(item(1000, 0), 5000) == 4000


def test_another_host_is_as_far_as_its_quickest_item() -> None:
    clocks, ahead = WorkerClocks(HERE), 1_000 * NS_PER_S
    offsets = []
    for number, delay in enumerate((5, 2, 9, 3)):
        sent = number * NS_PER_S
        offsets.append(clocks.offset_ns(item(sent + ahead, ELSEWHERE), sent + delay * NS_PER_MS))
    assert offsets == [delay * NS_PER_MS - ahead for delay in (5, 2, 2, 2)]


def test_what_was_long_ago_is_forgotten_and_so_is_a_worker() -> None:
    clocks = WorkerClocks(HERE)
    assert clocks.offset_ns(item(0, ELSEWHERE), 1) == 1
    assert clocks.offset_ns(item(WINDOW_NS, ELSEWHERE), WINDOW_NS + 6) == 1, "the window before still counts"
    assert clocks.offset_ns(item(2 * WINDOW_NS, ELSEWHERE), 2 * WINDOW_NS + 8) == 6
    clocks.forget(WORKER)
    assert clocks.offset_ns(item(2 * WINDOW_NS, ELSEWHERE), 2 * WINDOW_NS + 9) == 9
