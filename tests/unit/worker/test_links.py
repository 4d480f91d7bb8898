"""Link threads with a fake link: every post is answered once and in order, and every link ends with one LinkLost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import pytest

from services.core.actions import (
    CloseLink,
    Event,
    LinkLost,
    LinkRole,
    LinkUp,
    OpenLink,
    PostReceive,
    PostSend,
    ReceiveDone,
    SendDone,
)
from services.core.clock import NS_PER_S
from services.core.peer import LinkKey
from services.core.ports import ChecksumError, LinkError
from services.core.request import WorkerRef
from services.worker.links import Links

ME = WorkerRef("decode-0", 5)
PEER = WorkerRef("prefill-0", 6)
BOUND_S = 5.0  # nothing here takes longer, or a thread hangs


def key(epoch: int = 1) -> LinkKey:
    return LinkKey(PEER, ME, epoch)


class FakeLink:
    """Does what it is told, by part number: raise an exception, "block" until aborted, "wait" for `gate`, or nothing.

    Attributes:
        opening: the same for `open`.
        moved: (part, blocks, timeout_s) of each send and receive.
    """

    def __init__(self, link: LinkKey) -> None:
        self.key = link
        self.plan: dict[int, Exception | str] = {}
        self.opening: Exception | str = ""
        self.moved: list[tuple[int, tuple[int, ...], float]] = []
        self.blocked = threading.Event()
        self.gate = threading.Event()
        self.aborted = threading.Event()

    def _do(self, what: Exception | str) -> None:
        if isinstance(what, Exception):
            raise what
        if what == "block":
            self.blocked.set()
            assert self.aborted.wait(BOUND_S)
        if what == "wait":
            assert self.gate.wait(BOUND_S)
        if self.aborted.is_set():
            raise LinkError("aborted")

    def open(self, timeout_s: float) -> None:
        self._do(self.opening)

    def send(
        self,
        transfer_id: str,
        attempt: int,
        part: int,
        blocks: Sequence[int],
        timeout_s: float,
        step_id: int | None = None,
    ) -> None:
        self.moved.append((part, tuple(blocks), timeout_s))
        self._do(self.plan.get(part, ""))

    receive = send

    def abort(self) -> None:
        self.aborted.set()


class Rig:
    """Links whose events land in a queue, over one fake link for each key, made before it is opened."""

    def __init__(self, max_jobs: int = 256) -> None:
        self.fakes: dict[LinkKey, FakeLink] = {}
        self.events: queue.Queue[Event] = queue.Queue()
        self.links = Links(ME, self.events.put, lambda action: self.fake(action.link), max_jobs)

    def fake(self, link: LinkKey) -> FakeLink:
        return self.fakes.setdefault(link, FakeLink(link))

    def open(self, link: LinkKey) -> FakeLink:
        self.links.open(OpenLink(link, LinkRole.RECEIVER, "127.0.0.1:1"))
        return self.fakes[link]

    def next(self) -> Event:
        return self.events.get(timeout=BOUND_S)

    def receive(self, link: LinkKey, part: int) -> None:
        self.links.receive(PostReceive(link, "t", 1, part, (4, 2), 3 * NS_PER_S))

    def ended(self, link: LinkKey) -> None:
        """No thread is left, and nothing is said after LinkLost."""
        for thread in threading.enumerate():
            if thread.name == f"link {link.name}":
                thread.join(BOUND_S)
                assert not thread.is_alive()
        assert self.links.active() == 0
        assert self.events.empty()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.links.shutdown()


def done(part: int, error: str = "", link: LinkKey | None = None) -> ReceiveDone:
    return ReceiveDone("decode-0", link or key(), "t", 1, part, error)


def test_posts_are_performed_and_answered_in_order(rig: Rig) -> None:
    fake = rig.open(key())
    for part in range(3):
        rig.receive(key(), part)
    rig.links.send(PostSend(key(), "t", 1, 3, (9,), NS_PER_S // 2))
    assert rig.next() == LinkUp("decode-0", key())
    assert [rig.next() for _ in range(4)] == [done(0), done(1), done(2), SendDone("decode-0", key(), "t", 1, 3, "")]
    assert fake.moved == [(0, (4, 2), 3.0), (1, (4, 2), 3.0), (2, (4, 2), 3.0), (3, (9,), 0.5)]
    assert rig.links.active() == 1


def test_a_wrong_checksum_leaves_the_link_open(rig: Rig) -> None:
    rig.fake(key()).plan[0] = ChecksumError("t")
    rig.open(key())
    rig.receive(key(), 0)
    rig.receive(key(), 1)
    assert [rig.next() for _ in range(3)] == [LinkUp("decode-0", key()), done(0, "checksum"), done(1)]
    assert rig.links.active() == 1


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (LinkError("Connection closed by peer"), "Connection closed by peer"),
        (IndexError("no such block"), "IndexError: no such block"),
    ],
)
def test_a_broken_link_answers_what_waits_and_then_is_lost(rig: Rig, failure: Exception, reason: str) -> None:
    fake = rig.fake(key())
    fake.opening = "wait"
    fake.plan[1] = failure
    rig.open(key())
    for part in range(4):
        rig.receive(key(), part)
    fake.gate.set()
    assert [rig.next() for _ in range(6)] == [
        LinkUp("decode-0", key()),
        done(0),
        done(1, f"link: {failure}"),
        done(2, f"link: {reason}"),
        done(3, f"link: {reason}"),
        LinkLost("decode-0", key(), reason),
    ]
    assert fake.aborted.is_set()
    rig.ended(key())


def test_a_link_that_does_not_open_is_lost(rig: Rig) -> None:
    fake = rig.fake(key())
    fake.opening = "wait"
    rig.open(key())
    rig.receive(key(), 0)
    fake.opening = LinkError("open: the peer did not come in time")
    fake.aborted.set()  # what the wait ends in
    fake.gate.set()
    assert [rig.next(), rig.next()] == [done(0, "link: aborted"), LinkLost("decode-0", key(), "aborted")]
    rig.ended(key())


def test_closing_ends_a_blocked_post_and_those_behind_it(rig: Rig) -> None:
    fake = rig.fake(key())
    fake.plan[0] = "block"
    rig.open(key())
    assert rig.next() == LinkUp("decode-0", key())
    rig.receive(key(), 0)
    rig.receive(key(), 1)
    assert fake.blocked.wait(BOUND_S)
    rig.links.close(CloseLink(key(), "expired"))
    assert [rig.next() for _ in range(3)] == [
        done(0, "link: aborted"),
        done(1, "link: expired"),
        LinkLost("decode-0", key(), "expired"),
    ]
    rig.ended(key())


def test_closing_an_idle_link_loses_it_once(rig: Rig) -> None:
    rig.open(key())
    assert rig.next() == LinkUp("decode-0", key())
    rig.links.close(CloseLink(key(), "superseded"))
    rig.links.close(CloseLink(key(), "again"))
    assert rig.next() == LinkLost("decode-0", key(), "superseded")
    rig.ended(key())


def test_closing_while_opening_answers_the_posts(rig: Rig) -> None:
    fake = rig.fake(key())
    fake.opening = "block"
    rig.open(key())
    rig.receive(key(), 0)
    assert fake.blocked.wait(BOUND_S)
    rig.links.close(CloseLink(key(), "peer_lost"))
    assert [rig.next(), rig.next()] == [done(0, "link: peer_lost"), LinkLost("decode-0", key(), "peer_lost")]
    rig.ended(key())


def test_a_post_without_a_link_is_answered_at_once(rig: Rig) -> None:
    rig.receive(key(), 0)
    assert rig.next() == done(0, "link: not open")
    rig.links.close(CloseLink(key(), "whatever"))
    rig.open(key())
    assert rig.next() == LinkUp("decode-0", key())
    rig.links.close(CloseLink(key(), "drained"))
    assert rig.next() == LinkLost("decode-0", key(), "drained")
    rig.ended(key())
    rig.receive(key(), 1)
    assert rig.next() == done(1, "link: not open")


def test_links_do_not_disturb_each_other(rig: Rig) -> None:
    rig.fake(key(1)).plan[0] = "block"
    rig.open(key(1))
    assert rig.next() == LinkUp("decode-0", key(1))
    rig.receive(key(1), 0)
    rig.open(key(2))
    assert rig.next() == LinkUp("decode-0", key(2))
    rig.receive(key(2), 0)
    assert rig.next() == done(0, link=key(2))
    assert rig.links.active() == 2


def test_too_many_posts_are_refused() -> None:
    rig = Rig(max_jobs=2)
    fake = rig.fake(key())
    fake.plan[0] = "wait"
    rig.open(key())
    assert rig.next() == LinkUp("decode-0", key())
    for part in range(4):
        rig.receive(key(), part)
    refused = rig.next()
    assert isinstance(refused, ReceiveDone)
    assert refused.part >= 2
    assert refused.error == "link: 2 posts wait already"
    fake.gate.set()
    rig.links.shutdown()


def test_shutdown_ends_every_thread(rig: Rig) -> None:
    rig.fake(key(2)).plan[0] = "block"
    rig.fake(key(3)).opening = "block"
    for epoch in (1, 2, 3):
        rig.open(key(epoch))
    rig.receive(key(2), 0)
    assert rig.fake(key(2)).blocked.wait(BOUND_S)
    rig.links.shutdown()
    assert rig.links.active() == 0
    lost = [event for event in list(rig.events.queue) if isinstance(event, LinkLost)]
    assert sorted(event.link.epoch for event in lost) == [1, 2, 3]
    assert {event.reason for event in lost} == {"shutdown"}
