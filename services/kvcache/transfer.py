"""The KV hand-off of one worker: both tables joined with leases, links, retries and tombstones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from services.core.actions import (
    Action,
    Event,
    LinkLost,
    LinkUp,
    PeerMessage,
    ReceiveDone,
    SendDone,
    SendPeer,
    Tick,
    WorkerLost,
)
from services.core.clock import NS_PER_S
from services.core.peer import Abort, Ack, Commit, Grant, Offer, PeerBody, Ready, Release, Renew
from services.core.request import Discipline, Request, WorkerRef
from services.kvcache.block_manager import BlockManager
from services.kvcache.config import TransferConfig
from services.kvcache.lease import Leases
from services.kvcache.transfer_entry import Notice, Outbox, Transfer
from services.kvcache.transfer_links import LinkBook
from services.kvcache.transfer_receiver import ReceiverEnd
from services.kvcache.transfer_sender import SenderEnd
from services.kvcache.transfer_table import TERMINAL, Input, TransferState

Key = tuple[str, str, int]
"""(end, transfer id, attempt)."""


class Transfers:
    """Every transfer of one worker, as sender and as receiver.

    Args:
        me: this process.
        blocks: the worker's block ids; the only thing that is changed here besides our own state.
        config: lease times and attempts.
        store_address: host:port of this worker's TCPStore, told to senders in every grant.
    """

    def __init__(
        self, me: WorkerRef, blocks: BlockManager, config: TransferConfig, store_address: str, ranks: int = 1
    ) -> None:
        self._out = Outbox()
        self._ttl_ns = int(config.lease_ttl_s * NS_PER_S)
        self._renew_ns = int(config.renew_every_s * NS_PER_S)
        self._leases: Leases[Key] = Leases(self._ttl_ns)
        self._tombstones: dict[Key, tuple[TransferState, int]] = {}
        self._next_renew: int | None = None
        self._drain_ns = int(config.drain_timeout_s * NS_PER_S)
        links = LinkBook(me, store_address, self._out, config.quarantine_after, ranks)
        self._links = links
        self._sender = SenderEnd(me, blocks, links, self._out, config)
        self._receiver = ReceiverEnd(me, blocks, links, self._out, config)
        self._of_peer: dict[type[PeerBody], Callable[[int, WorkerRef, Any], None]] = {
            Offer: self._offered,
            Ready: lambda now, _source, body: self._receiver.ready(now, body),
            Ack: self._acknowledged,
            Release: self._released,
            Grant: lambda now, _source, body: self._sender.granted(now, body),
            Commit: self._commit,
            Renew: self._renewed,
            Abort: self._aborted,
        }
        self._ends: tuple[tuple[str, SenderEnd | ReceiverEnd], ...] = (("out", self._sender), ("in", self._receiver))

    # --- what the stages call ---------------------------------------------------------------------------------

    def offer(
        self,
        now: int,
        request: Request,
        blocks: list[int],
        num_tokens: int,
        to: WorkerRef,
        discipline: Discipline,
        first_token: int | None,
    ) -> list[Action]:
        """Offer the KV of `num_tokens` tokens in `blocks`; the transfer takes its own reference on each block."""
        assert (first_token is None) == (discipline is Discipline.EARLY)
        self._sender.offer(now, request, blocks, num_tokens, to, discipline, first_token)
        return self._finish(now)[0]

    def ready(
        self, now: int, transfer_id: str, num_blocks: int, first_token: int | None, step_id: int | None = None
    ) -> list[Action]:
        """Early grants: the first `num_blocks` blocks are computed, or will be when the running step `step_id` ends.

        The last call brings the first token.
        """
        self._sender.ready(now, transfer_id, num_blocks, first_token, step_id)
        return self._finish(now)[0]

    def release(self, now: int, transfer_id: str) -> list[Action]:
        """The request ended at its first token: there is nothing to hand off."""
        self._sender.give(now, transfer_id, Input.RELEASE, "finished")
        return self._finish(now)[0]

    def grant(self, now: int, transfer_id: str) -> list[Action] | None:
        """Reserve blocks for an offered transfer and tell its sender; None when there is no room now."""
        if not self._receiver.reserve(now, transfer_id):
            return None
        return self._finish(now)[0]

    def cancel(
        self, now: int, request_id: str, reason: str, attempt: int | None = None
    ) -> tuple[list[Action], list[Notice]]:
        """End every transfer of a request, or of its attempts up to `attempt`, at both ends."""
        for end in (self._sender, self._receiver):
            end.cancel(now, request_id, reason, attempt)
        return self._finish(now)

    def finished(self, now: int, request: Request) -> list[Action]:
        """A request that was handed to us ended well: its leases end with it, whether its sender still acknowledges.

        The commit is said once more; a sender that misses that, too, is told when it renews its lease.
        """
        for transfer in self._receiver.transfers():
            if transfer.state is TransferState.COMMITTED and transfer.serves(request.request_id, request.attempt):
                self._receiver.give(now, transfer.transfer_id, Input.CANCEL, "finished", transfer.attempt)
        return self._finish(now)[0]

    # --- what happens -----------------------------------------------------------------------------------------

    def handle(self, now: int, event: Event) -> tuple[list[Action], list[Notice]]:
        """Take a peer's message, the end of a posted operation, a lost link or worker, or the time."""
        match event:
            case PeerMessage():
                self._of_peer[type(event.body)](now, event.source, event.body)
            case SendDone():
                self._sender.moved(now, event.transfer_id, event.attempt, event.part, event.error)
            case ReceiveDone():
                self._receiver.moved(now, event.transfer_id, event.attempt, event.part, event.error)
            case LinkLost():
                self._links.lost(event.link)
                for end in (self._sender, self._receiver):
                    end.link_lost(now, event.link)
            case WorkerLost():
                self._links.peer_lost(event.worker)
                for end in (self._sender, self._receiver):
                    end.peer_lost(now, event.worker)
            case Tick():
                self._tick(now)
            case LinkUp():
                pass
            case _:
                raise AssertionError(f"not for transfers: {event}")
        return self._finish(now)

    def _offered(self, now: int, source: WorkerRef, body: Offer) -> None:
        if ("in", body.transfer_id, body.attempt) not in self._tombstones:
            self._receiver.offered(now, source, body)

    def _acknowledged(self, now: int, _source: WorkerRef, body: Ack) -> None:
        self._receiver.give(now, body.transfer_id, Input.ACK, "", body.attempt)

    def _released(self, now: int, _source: WorkerRef, body: Release) -> None:
        self._receiver.give(now, body.transfer_id, Input.RELEASE, "released", body.attempt)

    def _aborted(self, now: int, source: WorkerRef, body: Abort) -> None:
        self._sender.aborted(now, source, body)
        self._receiver.aborted(now, source, body)

    def _commit(self, now: int, source: WorkerRef, body: Commit) -> None:
        """A commit of an attempt that is over is answered by how it ended: acknowledged, or refused."""
        if not self._sender.give(now, body.transfer_id, Input.COMMIT, "", body.attempt):
            self._answer_ended(source, body.transfer_id, body.attempt)

    def _renewed(self, now: int, source: WorkerRef, body: Renew) -> None:
        for transfer_id, attempt in body.transfers:
            known = False
            for name, end in (("out", self._sender), ("in", self._receiver)):
                transfer = end.find(transfer_id, attempt)
                if transfer is not None and transfer.peer == source and transfer.state not in TERMINAL:
                    self._leases.renew((name, transfer_id, attempt), now)
                    known = True
            if not known:
                self._answer_ended(source, transfer_id, attempt, renewed=True)

    def _answer_ended(self, source: WorkerRef, transfer_id: str, attempt: int, renewed: bool = False) -> None:
        """Tell a peer how an attempt ended that it still believes in; who renews it missed our commit."""
        ends = [self._tombstones.get((end, transfer_id, attempt), (None, 0))[0] for end in ("out", "in")]
        if ends[0] is TransferState.RELEASED:
            self._out.actions.append(SendPeer(source, Ack(transfer_id, attempt)))
        elif ends[1] is not TransferState.RELEASED:
            self._out.actions.append(SendPeer(source, Abort(transfer_id, attempt, "expired")))
        elif renewed:
            self._out.actions.append(SendPeer(source, Commit(transfer_id, attempt)))

    def _tick(self, now: int) -> None:
        for end, transfer_id, attempt in self._leases.pop_expired(now):
            table = self._sender if end == "out" else self._receiver
            table.give(now, transfer_id, Input.EXPIRE, "lease_expired", attempt)
            transfer = table.find(transfer_id, attempt)
            if transfer is not None and transfer.state not in TERMINAL:
                # Committed with a send still posted: the link's own timeout ends that, not the lease.
                self._leases.renew((end, transfer_id, attempt), now)
        if self._next_renew is not None and now >= self._next_renew:
            self._next_renew = now + self._renew_ns
            self._send_renewals()
            self._sender.resend()
            self._receiver.resend(now)
        for transfer in self._with_due_posts():
            if transfer.posts_due_ns is not None and transfer.posts_due_ns <= now:
                transfer.posts_due_ns = None
                if transfer.posted and transfer.link is not None:
                    self._links.condemn(transfer.link, "posts_overdue")
        for key in [key for key, (_, until) in self._tombstones.items() if until <= now]:
            del self._tombstones[key]

    def _with_due_posts(self) -> list[Transfer]:
        """Transfers whose posted operations should end soon: a stuck peer must not keep their blocks."""
        ends = (self._sender, self._receiver)
        return [each for end in ends for each in end.transfers() if each.posts_due_ns is not None]

    def _send_renewals(self) -> None:
        by_peer: dict[WorkerRef, list[tuple[str, int]]] = {}
        for end in (self._sender, self._receiver):
            for transfer in end.transfers():
                if transfer.state not in TERMINAL:
                    by_peer.setdefault(transfer.peer, []).append((transfer.transfer_id, transfer.attempt))
        for peer, alive in by_peer.items():
            self._out.actions.append(SendPeer(peer, Renew(tuple(alive))))

    def _finish(self, now: int) -> tuple[list[Action], list[Notice]]:
        """Settle leases, bury what is over, keep the renewal timer going while anything lives."""
        for name, end in self._ends:
            if end.born:
                for transfer in end.born:
                    self._leases.renew((name, transfer.transfer_id, transfer.attempt), now)
                end.born.clear()
            if end.ended:
                for transfer_id, attempt, state in end.ended:
                    self._leases.release((name, transfer_id, attempt))
                    self._tombstones[name, transfer_id, attempt] = (state, now + 2 * self._ttl_ns)
                    over = end.find(transfer_id, attempt)
                    if over is not None and over.posted:
                        over.posts_due_ns = now + self._drain_ns
                end.ended.clear()
            if end.may_bury:
                end.bury()
        if self._next_renew is None:
            if len(self._leases):
                self._next_renew = now + self._renew_ns
        elif not len(self._leases):
            self._next_renew = None
        return self._out.drain()

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counter[str]:
        """What went wrong since the start, by `kind/reason`."""
        return self._out.counts

    @property
    def num_leases(self) -> int:
        """Transfers that are not over."""
        return len(self._leases)

    @property
    def num_transfers(self) -> int:
        """Transfers that are not over or whose posted operations have not come back."""
        return len(self._sender) + len(self._receiver)

    def request_ids(self) -> list[str]:
        """Whose transfers those are."""
        return [t.request.request_id for end in (self._sender, self._receiver) for t in end.transfers()]

    def next_wake(self) -> int | None:
        """Time of the next renewal or expiry."""
        first = self._next_renew
        if first is not None:  # as long as there are leases
            expiry = self._leases.next_expiry()
            if expiry is not None and expiry < first:
                first = expiry
        for _, end in self._ends:
            for transfer in end.entries():
                due_ns = transfer.posts_due_ns
                if due_ns is not None and (first is None or due_ns < first):
                    first = due_ns
        return first

    def owners(self) -> list[list[int]]:
        """The block references that transfers hold, for `BlockManager.check`."""
        return [t.blocks for end in (self._sender, self._receiver) for t in end.transfers() if not t.unpinned]

    def ignored(self) -> dict[str, int]:
        """How often an input met a state that has no cell for it."""
        return dict(self._sender.end.ignored + self._receiver.end.ignored)

    def state(self) -> object:
        """Everything that decides future behaviour."""
        return {
            "sender": [transfer.state_fields() for transfer in self._sender.transfers()],
            "receiver": [transfer.state_fields() for transfer in self._receiver.transfers()],
            "links": self._links.state(),
            "leases": self._leases.state(),
            "tombstones": [[*key, state, until] for key, (state, until) in self._tombstones.items()],
            "next_renew": self._next_renew,
        }

    def check(self) -> None:
        """Both ends, and one lease for each transfer that is not over."""
        self._leases.check()
        self._sender.check()
        self._receiver.check()
        alive = sum(t.state not in TERMINAL for end in (self._sender, self._receiver) for t in end.transfers())
        assert alive == len(self._leases), (alive, len(self._leases))
