"""What a worker says of its prefix cache, so that front doors know exactly which prefixes it has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockNews:
    """Which blocks became findable in a worker's prefix cache, and which did not stay so, since the last news.

    Attributes:
        first: number of the first event; 0 of a snapshot.
        end: number of the event after the last one.
        added, removed: hashes, one after the other; what came and went meanwhile is in neither.
        snapshot: `added` is everything that the cache holds, whatever was told before.
    """

    first: int
    end: int
    added: bytes
    removed: bytes
    snapshot: bool = False
