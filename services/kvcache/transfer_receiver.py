"""The receiving end of hand-offs: reserves blocks, posts receives as parts are announced, commits."""

from __future__ import annotations

from collections.abc import Iterable

from services.core.actions import DISCARD, PostReceive, SendPeer
from services.core.clock import NS_PER_S
from services.core.peer import Abort, Commit, Grant, LinkKey, Offer, Ready
from services.core.request import WorkerRef
from services.kvcache.block import num_blocks
from services.kvcache.block_manager import BlockManager
from services.kvcache.config import TransferConfig
from services.kvcache.transfer_entry import (
    Committed,
    OfferDropped,
    Offered,
    Outbox,
    Revoked,
    Transfer,
    TransferEnd,
    check_transfer,
)
from services.kvcache.transfer_links import LinkBook
from services.kvcache.transfer_table import RECEIVER, TERMINAL, Effect, Input, TransferState


class ReceiverEnd:
    """Transfers that this worker receives, by (transfer id, attempt).

    Two attempts of one transfer may be here at once: an older one keeps its blocks until its posted receives came
    back, so that late bytes never reach a block that something else owns.
    """

    def __init__(
        self, me: WorkerRef, blocks: BlockManager, links: LinkBook, out: Outbox, config: TransferConfig
    ) -> None:
        self._me = me
        self._blocks = blocks
        self._links = links
        self._out = out
        self._timeout_ns = int(config.send_timeout_s * NS_PER_S)
        self._step_timeout_ns = int(config.step_timeout_s * NS_PER_S)
        self._transfers: dict[tuple[str, int], Transfer] = {}
        self.born: list[Transfer] = []
        self.ended: list[tuple[str, int, TransferState]] = []
        self.may_bury = False  # something may be over since they were looked through
        self.end = TransferEnd(
            RECEIVER,
            {
                Effect.USE_LINK: lambda now, t: self._use_link(t),
                Effect.POST: lambda now, t: self._post(t),
                Effect.UNPIN: lambda now, t: self._want_unpin(t),
                Effect.TELL_GRANT: lambda now, t: self._tell_grant(t),
                Effect.TELL_COMMIT: lambda now, t: self._tell(t, Commit(t.transfer_id, t.attempt)),
                Effect.TELL_ABORT: lambda now, t: self._tell(t, Abort(t.transfer_id, t.attempt, t.reason)),
                Effect.HAND_OVER: lambda now, t: self._hand_over(t),
                Effect.NOTIFY_DROPPED: lambda now, t: self._out.notices.append(OfferDropped(t.transfer_id, t.reason)),
                Effect.REVOKE: lambda now, t: self._revoke(t),
            },
        )

    def offered(self, now: int, source: WorkerRef, body: Offer) -> None:
        """A sender asks for blocks; a higher attempt replaces a lower one."""
        for old in self._attempts(body.transfer_id):
            if old.attempt >= body.attempt:
                return
            old.reason = old.reason or "superseded"
            self._step(now, old, Input.ABORT)
        transfer = Transfer(body.transfer_id, body.attempt, source, body.request, body.num_tokens, body.discipline, now)
        transfer.first_token = body.first_token
        transfer.peer_ranks = body.ranks
        self._transfers[body.transfer_id, body.attempt] = transfer
        self.born.append(transfer)
        self._out.notices.append(Offered(body.transfer_id, body.request, body.num_tokens))

    def reserve(self, now: int, transfer_id: str) -> bool:
        """Reserve blocks for an offer and grant it; False when there is no room, or nothing to grant."""
        waiting = [t for t in self._attempts(transfer_id) if t.state is TransferState.OFFERED]
        if not waiting:
            return False
        transfer = waiting[-1]
        got = self._blocks.allocate(transfer.num_tokens, transfer.request.block_hashes, transfer.num_tokens)
        if got is None:
            return False
        transfer.blocks = got.blocks
        transfer.skip_blocks = transfer.announced_blocks = got.cached_blocks
        transfer.granted_ns = now
        self._step(now, transfer, Input.ADMIT)
        return True

    def ready(self, now: int, body: Ready) -> None:
        """The sender announces a part. Parts come in order; one that does not fit the grant ends the attempt."""
        transfer = self.find(body.transfer_id, body.attempt)
        if transfer is None or transfer.state not in (TransferState.GRANTED, TransferState.SENDING):
            self._discard(body)
            return
        if body.part < transfer.next_part:  # said again
            return
        expected = (transfer.next_part, transfer.announced_blocks)
        end = body.first_block + body.num_blocks
        is_last = body.first_token is not None
        complete = end == num_blocks(transfer.num_tokens, self._blocks.block_size)
        if (body.part, body.first_block) != expected or end > len(transfer.blocks) or (is_last and not complete):
            transfer.reason = "protocol"
            self._step(now, transfer, Input.FAIL)
            self._discard(body)
            return
        if is_last:
            transfer.first_token = body.first_token
            transfer.last_part = body.part
            if transfer.posted:  # the step that computed them is over: they need not wait for that any more
                transfer.posts_due_ns = now + self._timeout_ns
        transfer.ready_blocks, transfer.in_step = body.num_blocks, body.in_step
        self._step(now, transfer, Input.READY)
        self._complete(now, transfer)

    def _discard(self, body: Ready) -> None:
        """The attempt is over, but its bytes are on the way: take them off the link, or the sender would be stuck."""
        if body.num_blocks and self._links.is_open(body.link):
            blocks = (DISCARD,) * body.num_blocks
            timeout_ns = self._timeout_of(body.in_step)
            self._out.actions.append(
                PostReceive(body.link, body.transfer_id, body.attempt, body.part, blocks, timeout_ns)
            )

    def moved(self, now: int, transfer_id: str, attempt: int, part: int, error: str) -> None:
        """A posted receive came back."""
        transfer = self._transfers.get((transfer_id, attempt))
        if transfer is None or (attempt, part) not in transfer.posted:
            return
        transfer.posted.remove((attempt, part))
        self.may_bury = True
        if transfer.link is not None and error in ("", "checksum"):
            self._links.checked(transfer.link, right=not error)
        if error and transfer.state not in TERMINAL:
            transfer.reason = "checksum" if error == "checksum" else "link_lost"
            self._step(now, transfer, Input.FAIL)
        elif not error:
            transfer.moved += 1
            self._step(now, transfer, Input.MOVED)
            self._complete(now, transfer)
        self._settle(transfer)

    def aborted(self, now: int, source: WorkerRef, body: Abort) -> None:
        """The sender gave this attempt up; if its link broke, the next grant opens a new one."""
        transfer = self.find(body.transfer_id, body.attempt)
        if transfer is None or transfer.peer != source:
            return
        if body.reason == "link_lost" and transfer.link is not None and transfer.state not in TERMINAL:
            self._links.condemn(transfer.link, body.reason)
        self.give(now, body.transfer_id, Input.ABORT, body.reason, body.attempt)

    def cancel(self, now: int, request_id: str, reason: str, attempt: int | None = None) -> None:
        """The request is over, or its attempts up to `attempt` are."""
        for transfer in self.transfers():
            if transfer.serves(request_id, attempt):
                self.give(now, transfer.transfer_id, Input.CANCEL, reason, transfer.attempt)

    def link_lost(self, now: int, link: LinkKey) -> None:
        """Every unfinished transfer on this link failed."""
        for transfer in self.transfers():
            if transfer.link == link and transfer.state in (TransferState.GRANTED, TransferState.SENDING):
                self.give(now, transfer.transfer_id, Input.FAIL, "link_lost", transfer.attempt)

    def peer_lost(self, now: int, peer: WorkerRef) -> None:
        """The sender's process is gone."""
        for transfer in self.transfers():
            if transfer.peer == peer:
                self.give(now, transfer.transfer_id, Input.PEER_LOST, "peer_lost", transfer.attempt)

    def resend(self, now: int) -> None:
        """Say Grant again where no part was announced, and Commit where no Ack came."""
        for transfer in self.transfers():
            if transfer.state in (TransferState.GRANTED, TransferState.COMMITTED):
                self._step(now, transfer, Input.RESEND)

    def give(self, now: int, transfer_id: str, given: Input, reason: str, attempt: int) -> bool:
        """Apply an input to one attempt; False when it is not here."""
        transfer = self._transfers.get((transfer_id, attempt))
        if transfer is None:
            return False
        if reason and transfer.state not in TERMINAL:
            transfer.reason = reason
        self._step(now, transfer, given)
        return True

    def find(self, transfer_id: str, attempt: int) -> Transfer | None:
        """One attempt."""
        return self._transfers.get((transfer_id, attempt))

    def __len__(self) -> int:
        return len(self._transfers)

    def transfers(self) -> list[Transfer]:
        """All entries, oldest first."""
        return list(self._transfers.values())

    def entries(self) -> Iterable[Transfer]:
        """The same, as long as none comes or goes."""
        return self._transfers.values()

    def bury(self) -> None:
        """Drop entries that are over."""
        self.may_bury = False
        for key in [key for key, transfer in self._transfers.items() if transfer.is_over]:
            del self._transfers[key]

    def check(self) -> None:
        """Every entry is sound."""
        for transfer in self._transfers.values():
            check_transfer(transfer, [] if transfer.unpinned else transfer.blocks)

    def _attempts(self, transfer_id: str) -> list[Transfer]:
        return [transfer for (known, _), transfer in self._transfers.items() if known == transfer_id]

    def _step(self, now: int, transfer: Transfer, given: Input) -> None:
        was_over = transfer.state in TERMINAL
        self.end.step(now, transfer, given)
        if transfer.state in TERMINAL and not was_over:
            self.ended.append((transfer.transfer_id, transfer.attempt, transfer.state))
            self.may_bury = True
        self._settle(transfer)

    def _complete(self, now: int, transfer: Transfer) -> None:
        if transfer.state is TransferState.SENDING and 0 <= transfer.last_part == transfer.moved - 1:
            self._step(now, transfer, Input.COMPLETE)

    def _settle(self, transfer: Transfer) -> None:
        if transfer.unpin_wanted and not transfer.unpinned and not transfer.posted:
            transfer.unpinned = True
            self._blocks.free(transfer.blocks)

    def _use_link(self, transfer: Transfer) -> None:
        transfer.link = self._links.to_receive(transfer.peer, transfer.peer_ranks)

    def _post(self, transfer: Transfer) -> None:
        """Post the part that was just announced; an empty part counts as moved."""
        assert transfer.link is not None
        part, first = transfer.next_part, transfer.announced_blocks
        transfer.next_part += 1
        transfer.announced_blocks += transfer.ready_blocks
        if transfer.ready_blocks == 0:
            transfer.moved += 1
            return
        transfer.posted.append((transfer.attempt, part))
        blocks = tuple(transfer.blocks[first : transfer.announced_blocks])
        self._out.actions.append(
            PostReceive(
                transfer.link,
                transfer.transfer_id,
                transfer.attempt,
                part,
                blocks,
                self._timeout_of(transfer.in_step),
            )
        )

    def _timeout_of(self, in_step: bool) -> int:
        return self._timeout_ns + (self._step_timeout_ns if in_step else 0)

    def _hand_over(self, transfer: Transfer) -> None:
        """The stage owns the references from here on; their KV is findable from here on."""
        assert transfer.first_token is not None
        transfer.unpin_wanted = transfer.unpinned = True
        self._blocks.publish(transfer.blocks, transfer.request.block_hashes, transfer.num_tokens)
        self._out.notices.append(
            Committed(
                transfer.request,
                tuple(transfer.blocks),
                transfer.num_tokens,
                transfer.first_token,
                transfer.started_ns,
                transfer.granted_ns,
            )
        )

    def _want_unpin(self, transfer: Transfer) -> None:
        transfer.unpin_wanted = True

    def _revoke(self, transfer: Transfer) -> None:
        """Embeddings are of use whoever sent them; a decode that goes on elsewhere is not."""
        request = transfer.request
        if request.prefill_on is None:
            self._out.notices.append(Revoked(request.request_id, request.attempt, transfer.reason))

    def _tell_grant(self, transfer: Transfer) -> None:
        assert transfer.link is not None
        links = self._links
        body = Grant(
            transfer.transfer_id,
            transfer.attempt,
            transfer.link,
            links.store_address,
            transfer.skip_blocks,
            links.ranks,
        )
        self._tell(transfer, body)

    def _tell(self, transfer: Transfer, body: Grant | Commit | Abort) -> None:
        self._out.actions.append(SendPeer(transfer.peer, body))
