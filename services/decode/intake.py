"""Which offered requests get blocks, and when (DistServe's pull-accept rule)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from services.core.quick import quick
from services.core.request import Discipline, Request
from services.decode.config import DecodeConfig
from services.kvcache.block import num_blocks


@quick
@dataclass(frozen=True, slots=True)
class WaitingOffer:
    """An offer without blocks, or one whose KV is on its way."""

    transfer_id: str
    request: Request
    num_tokens: int
    arrived_ns: int


class BackPressure(StrEnum):
    """Why the oldest offer has to wait."""

    PREEMPTED_FIRST = "preempted_first"  # a request that lost its blocks here goes before new ones
    OLDER_FIRST = "older_first"  # so does a prompt of this worker that came before
    PLACES = "places"  # as many requests hold blocks as may
    WAITING_SHARE = "waiting_share"  # those that wait for their first step hold their share of blocks
    EARLY_SHARE = "early_share"  # so do those that are still being computed elsewhere
    BLOCKS = "blocks"  # the prompt does not fit the free blocks


@quick
@dataclass(frozen=True, slots=True)
class IntakeLoad:
    """What the accept rule looks at.

    Attributes:
        total, free: blocks of the pool; those of every grant count as used.
        block_size: tokens in a block.
        places: requests that may still get blocks.
        waiting_blocks: blocks of requests whose KV is complete, here or on its way, and that had no decode step yet.
        early_blocks: blocks of early grants; their prompts are still being computed.
        num_preempted: requests of this worker that lost their blocks.
        blocked_since: arrival of the prompt of this worker that waits for blocks, or None.
    """

    total: int
    free: int
    block_size: int
    places: int
    waiting_blocks: int
    early_blocks: int
    num_preempted: int = 0
    blocked_since: int | None = None


def back_pressure(offer: WaitingOffer, load: IntakeLoad, config: DecodeConfig) -> BackPressure | None:
    """Why an offer is not granted now; None grants it.

    DistServe: blocks(waiting) < total x share, and blocks(prompt) <= free. A share of a small pool may be less than
    one block, so that nothing waiting always passes. Early grants wait for their own prefill, not for a decode step:
    counted among the waiting, one long prompt would stop all others, so they have a share of their own.
    """
    if load.num_preempted:
        return BackPressure.PREEMPTED_FIRST
    if load.blocked_since is not None and load.blocked_since < offer.arrived_ns:
        return BackPressure.OLDER_FIRST
    if load.places <= 0:
        return BackPressure.PLACES
    if offer.request.discipline is Discipline.EARLY:
        if load.early_blocks and load.early_blocks >= load.total * config.max_early_block_share:
            return BackPressure.EARLY_SHARE
    elif load.waiting_blocks and load.waiting_blocks >= load.total * config.max_waiting_block_share:
        return BackPressure.WAITING_SHARE
    return BackPressure.BLOCKS if num_blocks(offer.num_tokens, load.block_size) > load.free else None


class IntakeQueue:
    """Offers in order of arrival; the first that does not fit holds back those behind it, so none starves.

    Attributes:
        by_id: offers by their transfers, oldest first.
        pressure: why the oldest offer waits, None when nothing does.
        held_back: how often an offer began to wait, by reason.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, WaitingOffer] = {}
        self.pressure: BackPressure | None = None
        self._pressed = ""
        self.held_back: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, offer: WaitingOffer) -> None:
        """A new offer, or a new attempt of one that waits: it keeps its place."""
        known = self.by_id.get(offer.transfer_id)
        self.by_id[offer.transfer_id] = replace(offer, arrived_ns=known.arrived_ns) if known else offer

    def head(self) -> WaitingOffer | None:
        """The oldest offer."""
        return next(iter(self.by_id.values()), None)

    def hold_back(self, reason: BackPressure | None) -> None:
        """Note why the oldest offer waits; None: nothing waits."""
        if reason is None:
            self.pressure, self._pressed = None, ""
            return
        head = self.head()
        pressed = head.transfer_id if head else ""
        if (pressed, reason) != (self._pressed, self.pressure):
            self.held_back[reason.value] += 1
        self.pressure, self._pressed = reason, pressed

    def remove(self, transfer_id: str) -> WaitingOffer | None:
        """Granted or dropped."""
        return self.by_id.pop(transfer_id, None)

    def offers(self) -> Sequence[WaitingOffer]:
        """All of them, oldest first."""
        return list(self.by_id.values())

    def state(self) -> object:
        """Transfer ids with their arrivals, and the back-pressure."""
        return {
            "offers": {transfer_id: offer.arrived_ns for transfer_id, offer in self.by_id.items()},
            "pressure": [self.pressure, self._pressed],
            "held_back": dict(self.held_back),
        }
