"""The sending end of hand-offs: offers, posts parts as they become ready, retries, unpins."""

from __future__ import annotations

from collections.abc import Iterable

from services.core.actions import PostSend, SendPeer
from services.core.clock import NS_PER_S
from services.core.peer import Abort, Ack, Grant, LinkKey, Offer, Ready, Release
from services.core.request import Discipline, Request, WorkerRef
from services.kvcache.block_manager import BlockManager
from services.kvcache.config import TransferConfig
from services.kvcache.transfer_entry import (
    RETRYABLE,
    HandedOff,
    HandoffFailed,
    Outbox,
    Transfer,
    TransferEnd,
    check_transfer,
)
from services.kvcache.transfer_links import LinkBook
from services.kvcache.transfer_table import SENDER, TERMINAL, Effect, Input, TransferState


def transfer_id_of(request: Request) -> str:
    """A transfer is named after the dispatch it serves, and where it brings embeddings after the first image, too."""
    name = f"{request.request_id}/{request.attempt}"
    return name if request.prefill_on is None else f"{name}/images-{request.shards[0].first}"


class SenderEnd:
    """Transfers that this worker sends, by transfer id; a retry keeps the entry and its blocks."""

    def __init__(
        self, me: WorkerRef, blocks: BlockManager, links: LinkBook, out: Outbox, config: TransferConfig
    ) -> None:
        self._me = me
        self._blocks = blocks
        self._links = links
        self._out = out
        self._timeout_ns = int(config.send_timeout_s * NS_PER_S)
        self._step_timeout_ns = int(config.step_timeout_s * NS_PER_S)
        self._max_attempts = config.max_attempts
        self._transfers: dict[str, Transfer] = {}
        self.born: list[Transfer] = []
        self.ended: list[tuple[str, int, TransferState]] = []
        self.may_bury = False  # something may be over since they were looked through
        self.end = TransferEnd(
            SENDER,
            {
                Effect.USE_LINK: lambda now, t: self._use_link(t),
                Effect.POST: lambda now, t: self._post(t),
                Effect.REOFFER: self._reoffer,
                Effect.UNPIN: lambda now, t: self._want_unpin(t),
                Effect.TELL_ACK: lambda now, t: self._tell(t, Ack(t.transfer_id, t.attempt)),
                Effect.TELL_ABORT: lambda now, t: self._tell(t, Abort(t.transfer_id, t.attempt, t.reason)),
                Effect.TELL_RELEASE: lambda now, t: self._tell(t, Release(t.transfer_id, t.attempt)),
                Effect.NOTIFY_DONE: lambda now, t: self._out.notices.append(HandedOff(t.request.request_id)),
                Effect.NOTIFY_FAILED: lambda now, t: self._out.notices.append(
                    HandoffFailed(t.request.request_id, t.reason)
                ),
            },
        )

    def offer(
        self,
        now: int,
        request: Request,
        blocks: list[int],
        num_tokens: int,
        to: WorkerRef,
        discipline: Discipline,
        first_token: int | None,
    ) -> None:
        """Start a transfer; a late one is ready at once."""
        transfer = Transfer(transfer_id_of(request), 1, to, request, num_tokens, discipline, now)
        assert transfer.transfer_id not in self._transfers, f"{transfer.transfer_id} is offered twice"
        self._blocks.pin(blocks)
        transfer.blocks = list(blocks)
        transfer.first_token = first_token
        transfer.ready_blocks = len(blocks) if first_token is not None else 0
        self._transfers[transfer.transfer_id] = transfer
        self._send_offer(transfer)

    def ready(self, now: int, transfer_id: str, num_blocks: int, first_token: int | None, step_id: int | None) -> None:
        """More blocks are computed, or are being computed; they are posted when the grant is there."""
        transfer = self._transfers.get(transfer_id)
        if transfer is None or transfer.state in TERMINAL:
            return
        transfer.ready_blocks = num_blocks
        transfer.ready_step = step_id
        transfer.first_token = first_token
        if first_token is not None:  # what was posted with a step need not wait for that any more
            transfer.posts_due_ns = now + self._timeout_ns
        if transfer.state is not TransferState.OFFERED:
            self._step(now, transfer, Input.READY)

    def granted(self, now: int, body: Grant) -> None:
        """The receiver reserved blocks."""
        transfer = self.find(body.transfer_id, body.attempt)
        if transfer is None or transfer.state is not TransferState.OFFERED:
            return
        transfer.link = body.link
        transfer.store_address = body.store_address
        transfer.peer_ranks = body.ranks
        transfer.skip_blocks = body.skip_blocks
        transfer.granted_ns = now
        self._step(now, transfer, Input.GRANT)
        if transfer.ready_blocks:
            self._step(now, transfer, Input.READY)

    def moved(self, now: int, transfer_id: str, attempt: int, part: int, error: str) -> None:
        """A posted send came back."""
        transfer = self._transfers.get(transfer_id)
        if transfer is None or (attempt, part) not in transfer.posted:
            return
        transfer.posted.remove((attempt, part))
        self.may_bury = True
        if attempt == transfer.attempt and error:
            self._fail(now, transfer, "link_lost")
        elif attempt == transfer.attempt:
            transfer.moved += 1
            self._step(now, transfer, Input.MOVED)
        self._settle(now, transfer)

    def aborted(self, now: int, source: WorkerRef, body: Abort) -> None:
        """The receiver gave this attempt up."""
        transfer = self.find(body.transfer_id, body.attempt)
        if transfer is None or transfer.peer != source:
            return
        if body.reason in RETRYABLE:
            if body.reason == "link_lost" and transfer.link is not None:
                self._links.condemn(transfer.link, body.reason)
            self._fail(now, transfer, body.reason)
        else:
            transfer.reason = body.reason
            self._step(now, transfer, Input.ABORT)

    def cancel(self, now: int, request_id: str, reason: str, attempt: int | None = None) -> None:
        """The request is over, or its attempts up to `attempt` are."""
        for transfer in self.transfers():
            if transfer.serves(request_id, attempt):
                self.give(now, transfer.transfer_id, Input.CANCEL, reason)

    def link_lost(self, now: int, link: LinkKey) -> None:
        """Every unfinished transfer on this link failed; the shell has answered all its posts."""
        for transfer in self.transfers():
            if transfer.link == link and transfer.state is not TransferState.OFFERED:
                self._fail(now, transfer, "link_lost")

    def peer_lost(self, now: int, peer: WorkerRef) -> None:
        """The receiver's process is gone: nobody reads what is still posted, so our blocks need not wait for it."""
        for transfer in self.transfers():
            if transfer.peer == peer:
                transfer.posted.clear()
                self.may_bury = True
                self.give(now, transfer.transfer_id, Input.PEER_LOST, "peer_lost")

    def resend(self) -> None:
        """Say Ready again where no Commit came and no bytes are under way that would tell a lost message."""
        for transfer in self.transfers():
            if transfer.state is TransferState.SENDING and transfer.last_is_empty and transfer.link is not None:
                part, done = transfer.last_part, transfer.announced_blocks
                attempt, token = transfer.attempt, transfer.first_token
                self._tell(transfer, Ready(transfer.transfer_id, attempt, transfer.link, part, done, 0, token))

    def give(self, now: int, transfer_id: str, given: Input, reason: str, attempt: int | None = None) -> bool:
        """Apply an input to a transfer; False when there is no such transfer or attempt."""
        transfer = self._transfers.get(transfer_id)
        if transfer is None or (attempt is not None and transfer.attempt != attempt):
            return False
        if reason and transfer.state not in TERMINAL:
            transfer.reason = reason
        self._step(now, transfer, given)
        return True

    def find(self, transfer_id: str, attempt: int) -> Transfer | None:
        """The transfer, if this is its current attempt."""
        transfer = self._transfers.get(transfer_id)
        return transfer if transfer is not None and transfer.attempt == attempt else None

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
        for transfer in [transfer for transfer in self._transfers.values() if transfer.is_over]:
            del self._transfers[transfer.transfer_id]

    def check(self) -> None:
        """Every entry is sound."""
        for transfer in self._transfers.values():
            check_transfer(transfer, [] if transfer.unpinned else transfer.blocks)

    def _step(self, now: int, transfer: Transfer, given: Input) -> None:
        was_over = transfer.state in TERMINAL
        self.end.step(now, transfer, given)
        if transfer.state in TERMINAL and not was_over:
            self.ended.append((transfer.transfer_id, transfer.attempt, transfer.state))
            self.may_bury = True
        self._settle(now, transfer)

    def _settle(self, now: int, transfer: Transfer) -> None:
        """Blocks are given back when nothing is posted any more."""
        if transfer.posted:
            return
        if transfer.state is TransferState.COMMITTED:
            self._step(now, transfer, Input.DRAINED)
        elif transfer.unpin_wanted and not transfer.unpinned:
            transfer.unpinned = True
            self._blocks.free(transfer.blocks)

    def _fail(self, now: int, transfer: Transfer, reason: str) -> None:
        if transfer.state in TERMINAL or transfer.state is TransferState.COMMITTED:
            return
        again = transfer.attempt < self._max_attempts
        self._out.counts[f"{'handoff_retried' if again else 'handoff_failed'}/{reason}"] += 1
        transfer.reason = reason
        self._step(now, transfer, Input.RETRY if again else Input.FAIL)

    def _send_offer(self, transfer: Transfer) -> None:
        early = transfer.discipline is Discipline.EARLY
        body = Offer(
            transfer.transfer_id,
            transfer.attempt,
            transfer.request,
            transfer.num_tokens,
            transfer.discipline,
            None if early else transfer.first_token,
            self._links.ranks,
        )
        self.born.append(transfer)
        self._tell(transfer, body)

    def _reoffer(self, now: int, transfer: Transfer) -> None:
        self.ended.append((transfer.transfer_id, transfer.attempt, TransferState.ABORTED))
        transfer.attempt += 1
        transfer.link = transfer.posts_due_ns = None
        transfer.skip_blocks = transfer.announced_blocks = transfer.next_part = transfer.moved = 0
        transfer.last_part = -1
        transfer.last_is_empty = False
        self._send_offer(transfer)

    def _use_link(self, transfer: Transfer) -> None:
        assert transfer.link is not None
        self._links.to_send(transfer.link, transfer.store_address, transfer.peer_ranks)

    def _post(self, transfer: Transfer) -> None:
        """Announce and post the blocks that became ready since the last part.

        An early transfer that is not complete announces only what it can send; the last part always goes out, with
        the first token, even when it has no blocks.
        """
        assert transfer.link is not None
        first = max(transfer.skip_blocks, transfer.announced_blocks)
        count = max(0, transfer.ready_blocks - first)
        if transfer.last_part >= 0 or (count == 0 and transfer.first_token is None):
            return
        part = transfer.next_part
        transfer.next_part += 1
        if transfer.first_token is not None:
            transfer.last_part = part
        transfer.announced_blocks = first + count
        transfer_id, attempt, step_id = transfer.transfer_id, transfer.attempt, transfer.ready_step
        in_step = step_id is not None
        body = Ready(transfer_id, attempt, transfer.link, part, first, count, transfer.first_token, in_step)
        self._tell(transfer, body)
        if count == 0:
            transfer.last_is_empty = True
            transfer.moved += 1
            return
        transfer.posted.append((attempt, part))
        blocks = tuple(transfer.blocks[first : first + count])
        timeout_ns = self._timeout_ns + (self._step_timeout_ns if in_step else 0)
        self._out.actions.append(PostSend(transfer.link, transfer_id, attempt, part, blocks, timeout_ns, step_id))

    def _want_unpin(self, transfer: Transfer) -> None:
        transfer.unpin_wanted = True

    def _tell(self, transfer: Transfer, body: Offer | Ready | Ack | Abort | Release) -> None:
        self._out.actions.append(SendPeer(transfer.peer, body))
