"""Control messages to a peer: in order, one call at a time, and a peer that is gone is told once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from services.core.actions import WorkerLost
from services.core.peer import Ack, PeerBody
from services.core.request import WorkerRef
from services.worker import peers
from services.worker.peers import PeerGone, Peers

ME, PEER, OTHER = WorkerRef("prefill-0", 1), WorkerRef("decode-0", 2), WorkerRef("decode-1", 3)


class Calls:
    """A transport whose answers the test gives."""

    def __init__(self) -> None:
        self.made: list[tuple[WorkerRef, int, list[str]]] = []
        self.answers: list[asyncio.Future[None]] = []

    def __call__(self, me: WorkerRef, to: WorkerRef, sequence: int, bodies: tuple[PeerBody, ...]) -> Awaitable[None]:
        assert me == ME
        self.made.append((to, sequence, [body.transfer_id for body in bodies if isinstance(body, Ack)]))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


def message(name: str) -> Ack:
    return Ack(name, 1)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_message_leaves_at_once_and_later_ones_together() -> None:
    calls, lost = Calls(), []
    queue = Peers(ME, calls, lost.append)
    queue.send(PEER, message("a"))
    assert calls.made == [(PEER, 1, ["a"])]  # before the loop turns
    queue.send(PEER, message("b"))
    queue.send(PEER, message("c"))
    queue.send(OTHER, message("d"))
    await settle()
    assert calls.made[1:] == [(OTHER, 1, ["d"])]  # one call at a time to each peer
    calls.answers[0].set_result(None)
    await settle()
    assert calls.made[2:] == [(PEER, 2, ["b", "c"])]
    calls.answers[2].set_result(None)
    await settle()
    queue.send(PEER, message("e"))
    assert calls.made[3:] == [(PEER, 4, ["e"])]
    assert lost == []


async def test_a_peer_that_is_gone_is_told_once_and_its_queue_is_dropped() -> None:
    calls, lost = Calls(), []
    queue = Peers(ME, calls, lost.append)
    queue.send(PEER, message("a"))
    queue.send(PEER, message("b"))
    calls.answers[0].set_exception(PeerGone("it was restarted"))
    await settle()
    assert lost == [WorkerLost("prefill-0", PEER, "it was restarted")]
    assert len(calls.made) == 1
    queue.send(PEER, message("c"))
    assert calls.made[1:] == [(PEER, 1, ["c"])]


async def test_a_peer_that_takes_nothing_is_lost_at_the_limit(monkeypatch) -> None:
    monkeypatch.setattr(peers, "MAX_QUEUED", 2)
    calls, lost = Calls(), []
    queue = Peers(ME, calls, lost.append)
    for name in "abcd":
        queue.send(PEER, message(name))
    assert lost == [WorkerLost("prefill-0", PEER, "2 messages wait for it")]
    calls.answers[0].set_result(None)
    await settle()
    assert len(calls.made) == 1
