"""What is left of a hand-off whose request ended while the sender had not acknowledged the commit: nothing."""

from __future__ import annotations

import pytest

from services.core.actions import PeerMessage, PostReceive, ReceiveDone, SendPeer, Tick
from services.core.clock import NS_PER_S
from services.core.peer import Abort, Ack, Commit, Offer, Ready, Renew
from services.core.request import Discipline, WorkerRef
from services.kvcache.block_manager import BlockManager
from services.kvcache.config import TransferConfig
from services.kvcache.transfer import Transfers
from services.kvcache.transfer_entry import Committed
from tests.factories import make_request

P, D = WorkerRef("prefill-0", 1), WorkerRef("decode-0", 2)
REQUEST = make_request("r", (1, 2, 3, 4, 5))


def said(actions: list[object]) -> list[object]:
    return [action.body for action in actions if isinstance(action, SendPeer)]


@pytest.fixture
def receiver() -> Transfers:
    """Committed, and the sender hangs: it acknowledges nothing."""
    blocks = BlockManager(8, 4, 0.0, prefix_caching=True)
    transfers = Transfers(D, blocks, TransferConfig(), "h:1")
    transfers.handle(0, PeerMessage(P, 0, Offer("r/1", 1, REQUEST, 5, Discipline.LATE, 7)))
    (_, tell) = transfers.grant(0, "r/1") or []
    assert isinstance(tell, SendPeer)
    actions, _ = transfers.handle(0, PeerMessage(P, 1, Ready("r/1", 1, tell.body.link, 0, 0, 2, 7)))  # type: ignore[union-attr]
    (post,) = actions
    assert isinstance(post, PostReceive)
    actions, notices = transfers.handle(0, ReceiveDone("x", post.link, "r/1", 1, 0, ""))
    assert said(actions) == [Commit("r/1", 1)] and isinstance(notices[0], Committed)
    blocks.free(list(notices[0].blocks))
    return transfers


def test_a_request_that_finishes_ends_its_lease_whether_its_sender_acknowledges_or_hangs(receiver: Transfers) -> None:
    assert (receiver.num_leases, receiver.num_transfers) == (1, 1)
    assert said(receiver.finished(0, REQUEST)) == [Commit("r/1", 1)]
    receiver.check()
    assert (receiver.num_leases, receiver.num_transfers, receiver.request_ids()) == (0, 0, [])
    assert receiver.finished(0, REQUEST) == []


def test_another_attempt_of_the_request_ends_nothing(receiver: Transfers) -> None:
    earlier = make_request("r", (1, 2, 3, 4, 5), attempt=0)
    assert receiver.finished(0, earlier) == []
    assert receiver.num_leases == 1


def test_a_sender_that_wakes_afterwards_is_told_of_the_commit_and_not_that_its_lease_ran_out(
    receiver: Transfers,
) -> None:
    receiver.finished(0, REQUEST)
    for body, answer in ((Renew((("r/1", 1),)), [Commit("r/1", 1)]), (Ack("r/1", 1), [])):
        actions, notices = receiver.handle(4 * NS_PER_S, PeerMessage(P, 2, body))
        assert (said(actions), notices) == (answer, [])
    receiver.handle(20 * NS_PER_S, Tick("x"))  # what is remembered of it ends, too
    actions, _ = receiver.handle(20 * NS_PER_S, PeerMessage(P, 3, Renew((("r/1", 1),))))
    assert said(actions) == [Abort("r/1", 1, "expired")]
