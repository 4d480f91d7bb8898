"""What the request flow and the cache say to each other (protocol section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.request import FinishReason


@dataclass(frozen=True, slots=True)
class LookupCache:
    """Look for an answer to a request; answered by CacheResult, always, and by a second one after a pending one."""

    request_id: str


@dataclass(frozen=True, slots=True)
class CacheResult:
    """What the cache has for a request.

    Attributes:
        token_ids: a whole output that ended by itself; empty: nothing.
        tier: exact or semantic; "" of nothing.
        pending: nothing yet, and another result will come; the request need not wait for it.
    """

    source: str
    request_id: str
    token_ids: tuple[int, ...] = ()
    tier: str = ""
    pending: bool = False


@dataclass(frozen=True, slots=True)
class StoreCache:
    """A request has its whole output, which may be kept."""

    request_id: str
    token_ids: tuple[int, ...]
    finish: FinishReason
