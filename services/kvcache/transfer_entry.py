"""One attempt of one hand-off, what it reports to the stages, and what both ends share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.core.actions import Action
from services.core.peer import LinkKey
from services.core.quick import quick
from services.core.request import Discipline, Request, WorkerRef
from services.kvcache.transfer_table import TERMINAL, Effect, Input, Table, TransferState

RETRYABLE = frozenset({"checksum", "link_lost"})
"""Reasons after which another attempt may succeed."""


@quick
@dataclass(frozen=True, slots=True)
class Offered:
    """Receiver: a request waits for blocks."""

    transfer_id: str
    request: Request
    num_tokens: int


@dataclass(frozen=True, slots=True)
class OfferDropped:
    """Receiver: an offered or granted transfer is over before its commit."""

    transfer_id: str
    reason: str


@quick
@dataclass(frozen=True, slots=True)
class Committed:
    """Receiver: the KV of `num_tokens` tokens is in `blocks`; the stage owns blocks and request from here on."""

    request: Request
    blocks: tuple[int, ...]
    num_tokens: int
    first_token: int
    offered_ns: int
    granted_ns: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """Receiver: the sender had given up before it saw the commit; this attempt of the request must stop here."""

    request_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class HandedOff:
    """Sender: the receiver owns the request; our blocks are unpinned."""

    request_id: str


@dataclass(frozen=True, slots=True)
class HandoffFailed:
    """Sender: no attempt is left; our blocks are unpinned."""

    request_id: str
    reason: str


Notice = Offered | OfferDropped | Committed | Revoked | HandedOff | HandoffFailed


@dataclass(slots=True, eq=False)
class Transfer:
    """State of one transfer at one end.

    Attributes:
        blocks: local block ids, each holding one reference of this transfer.
        peer_ranks: tensor parallelism of the peer, as it said.
        skip_blocks: leading blocks that the receiver has already.
        ready_blocks: sender: leading blocks whose KV is computed, or is being computed by step `ready_step`.
        in_step: receiver: the part that was announced last is computed while it is sent.
        announced_blocks: leading blocks that parts were announced for, skipped ones included.
        next_part: number of the next part to announce or to post.
        posted: (attempt, part) of posted operations without an answer; blocks are kept until it is empty.
        moved: parts of this attempt that ended well.
        last_is_empty: sender: that part has no blocks, so only its message can be lost.
        posts_due_ns: when the link is given up if posted operations are still out, for nothing keeps them any more.
        last_part: part that carries the first token; -1 until it is known.
    """

    transfer_id: str
    attempt: int
    peer: WorkerRef
    request: Request
    num_tokens: int
    discipline: Discipline
    started_ns: int
    state: TransferState = TransferState.OFFERED
    blocks: list[int] = field(default_factory=list)
    skip_blocks: int = 0
    ready_blocks: int = 0
    ready_step: int | None = None
    in_step: bool = False
    announced_blocks: int = 0
    next_part: int = 0
    posted: list[tuple[int, int]] = field(default_factory=list)
    moved: int = 0
    last_part: int = -1
    last_is_empty: bool = False
    first_token: int | None = None
    link: LinkKey | None = None
    store_address: str = ""
    peer_ranks: int = 1
    reason: str = ""
    granted_ns: int = 0
    unpin_wanted: bool = False
    unpinned: bool = False
    posts_due_ns: int | None = None

    def serves(self, request_id: str, attempt: int | None) -> bool:
        """Whether it belongs to a request and, unless `attempt` is None, to none of its later attempts."""
        return self.request.request_id == request_id and (attempt is None or self.request.attempt <= attempt)

    @property
    def is_over(self) -> bool:
        """Terminal and nothing posted: nothing can refer to the blocks any more."""
        return self.state in TERMINAL and not self.posted

    def state_fields(self) -> dict[str, object]:
        """Plain values for the decision log."""
        apart = ("request", "peer", "link")
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in apart}
        fields["request"] = self.request.request_id
        fields["peer"] = [self.peer.worker_id, self.peer.incarnation]
        fields["link"] = self.link.name if self.link else None
        return fields


class TransferEnd:
    """Runs one table: looks a transition up, sets the state, performs the effects in order.

    Args:
        table: the sender's or the receiver's.
        effects: what each effect does, `(now, transfer)`.
    """

    def __init__(self, table: Table, effects: dict[Effect, Callable[[int, Transfer], None]]) -> None:
        self._table = table
        self._effects = effects
        self.ignored: Counter[str] = Counter()

    def step(self, now: int, transfer: Transfer, given: Input) -> bool:
        """Apply one input; False (and a count) when the table has no such cell."""
        cell = self._table.get((transfer.state, given))
        if cell is None:
            self.ignored[f"{transfer.state}/{given}"] += 1
            return False
        transfer.state, effects = cell
        for effect in effects:
            self._effects[effect](now, transfer)
        return True


class Outbox:
    """Actions and notices of one `handle` call, in order.

    Attributes:
        counts: since the start, what went wrong by `kind/reason`.
    """

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.notices: list[Notice] = []
        self.counts: Counter[str] = Counter()

    def drain(self) -> tuple[list[Action], list[Notice]]:
        """Hand everything over and start empty."""
        drained = self.actions, self.notices
        self.actions, self.notices = [], []
        return drained


def check_transfer(transfer: Transfer, held: Sequence[int]) -> None:
    """Invariants that hold at both ends after every input."""
    assert transfer.unpin_wanted or transfer.state not in TERMINAL or not held, transfer
    assert not (transfer.unpinned and transfer.posted), f"{transfer.transfer_id}: blocks freed under a posted operation"
    assert transfer.moved <= transfer.next_part, transfer
    if transfer.is_over:
        assert not held, f"{transfer.transfer_id} is over and still holds {held}"
