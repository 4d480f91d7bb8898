"""Which offered requests get blocks, and when (DistServe's pull-accept rule)."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.request import Request
from services.kvcache.block import num_blocks


@dataclass(frozen=True, slots=True)
class WaitingOffer:
    """An offer without blocks."""

    transfer_id: str
    request: Request
    num_tokens: int


def accepts(num_tokens: int, *, waiting_blocks: int, free: int, total: int, share: float, block_size: int) -> bool:
    """DistServe: blocks of accepted requests that wait for their first step < total x share, and the prompt fits.

    Args:
        num_tokens: tokens of the offered prompt.
        waiting_blocks: blocks of requests that were granted and have not had a decode step.
        free: blocks that can be given out now.
        total: blocks of the pool.
        share: `decode.max_waiting_block_share`.
        block_size: tokens in a block.
    """
    # Nothing waiting always passes: a share of a small pool may be less than one block.
    return (waiting_blocks == 0 or waiting_blocks < total * share) and num_blocks(num_tokens, block_size) <= free


class IntakeQueue:
    """Offers in order of arrival; the first that does not fit holds back those behind it, so none starves."""

    def __init__(self) -> None:
        self._offers: dict[str, WaitingOffer] = {}

    def __len__(self) -> int:
        return len(self._offers)

    def add(self, offer: WaitingOffer) -> None:
        """A new offer, or a new attempt of one that waits: it keeps its place."""
        self._offers[offer.transfer_id] = offer

    def head(self) -> WaitingOffer | None:
        """The oldest offer."""
        return next(iter(self._offers.values()), None)

    def remove(self, transfer_id: str) -> WaitingOffer | None:
        """Granted or dropped."""
        return self._offers.pop(transfer_id, None)

    def offers(self) -> list[WaitingOffer]:
        """All of them, oldest first."""
        return list(self._offers.values())
