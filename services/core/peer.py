"""What two workers say about one KV transfer (protocol section 4), and the link that they say it about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.core.quick import quick
from services.core.request import Discipline, Request, WorkerRef


@dataclass(frozen=True, slots=True)
class LinkKey:
    """One 2-rank process group: who sends, who receives, and which rebuild of the pair this is."""

    sender: WorkerRef
    receiver: WorkerRef
    epoch: int

    def __hash__(self) -> int:
        # As that of `WorkerRef`, and for the same reason: every table of links is looked into by it.
        return hash((self.sender.worker_id, self.receiver.worker_id, self.epoch))

    @property
    def name(self) -> str:
        """Store prefix of the group; never reused."""
        ends = f"{self.sender.worker_id}.{self.sender.incarnation:x}/{self.receiver.worker_id}"
        return f"{ends}.{self.receiver.incarnation:x}/{self.epoch}"


class LinkRole(StrEnum):
    """Which end of a link a worker is."""

    SENDER = "sender"
    RECEIVER = "receiver"


@quick
@dataclass(frozen=True, slots=True)
class Offer:
    """Sender: I have, or will have, the KV of `num_tokens` tokens; please grant blocks.

    `first_token` is known in a late offer and None in an early one; `ranks` is the sender's tensor parallelism.
    """

    transfer_id: str
    attempt: int
    request: Request
    num_tokens: int
    discipline: Discipline
    first_token: int | None
    ranks: int = 1


@quick
@dataclass(frozen=True, slots=True)
class Grant:
    """Receiver: blocks are reserved; send on this link. The first `skip_blocks` blocks I have already.

    `ranks` is the receiver's tensor parallelism.
    """

    transfer_id: str
    attempt: int
    link: LinkKey
    store_address: str
    skip_blocks: int
    ranks: int = 1


@quick
@dataclass(frozen=True, slots=True)
class Ready:
    """Sender: part `part` (`num_blocks` blocks from `first_block`) is being sent on `link`.

    The last part carries the first output token. A receiver that no longer wants the part still takes it off the link.
    `in_step`: the part is being computed while it is sent, so it takes as long as the step.
    """

    transfer_id: str
    attempt: int
    link: LinkKey
    part: int
    first_block: int
    num_blocks: int
    first_token: int | None
    in_step: bool = False


@dataclass(frozen=True, slots=True)
class Renew:
    """Either side: these (transfer id, attempt) pairs are alive; extend their leases."""

    transfers: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """Receiver: every part arrived and was checked; the request is mine now."""

    transfer_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Sender: the commit was seen and my blocks are unpinned."""

    transfer_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Either side: this attempt is over, for this reason."""

    transfer_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Sender: the request ended before there was anything to hand off; give the reservation back."""

    transfer_id: str
    attempt: int


PeerBody = Offer | Grant | Ready | Renew | Commit | Ack | Abort | Release
