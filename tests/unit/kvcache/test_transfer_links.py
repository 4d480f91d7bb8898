"""Links to a dead process of a peer are closed when its successor speaks."""

from __future__ import annotations

from services.core.actions import CloseLink, OpenLink
from services.core.peer import LinkKey
from services.core.request import WorkerRef
from services.kvcache.transfer_entry import Outbox
from services.kvcache.transfer_links import LinkBook

ME, OTHER, NEXT = WorkerRef("decode-0", 1), WorkerRef("prefill-0", 2), WorkerRef("prefill-0", 3)


def test_a_successor_closes_the_links_of_its_former_process() -> None:
    out = Outbox()
    links = LinkBook(ME, "h:1", out, quarantine_after=2)
    old = links.to_receive(OTHER, 1)
    links.to_send(LinkKey(ME, OTHER, 1), "h:2", 1)
    beside = links.to_receive(WorkerRef("prefill-1", 9), 1)
    out.drain()
    new = links.to_receive(NEXT, 1)
    assert new == LinkKey(NEXT, ME, 1)
    actions = out.drain()[0]
    closed = [action.link for action in actions if isinstance(action, CloseLink)]
    assert closed == [old, LinkKey(ME, OTHER, 1)]
    assert [action.link for action in actions if isinstance(action, OpenLink)] == [new]
    assert links.is_open(beside)
