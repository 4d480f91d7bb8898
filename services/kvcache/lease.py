"""Promises with an end: what is not renewed in time is over."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Leases(Generic[K]):
    """Expiry times by key, all with one TTL.

    Args:
        ttl_ns: time from a grant or renewal to expiry.
    """

    def __init__(self, ttl_ns: int) -> None:
        self._ttl_ns = ttl_ns
        # A renewal moves its key to the end, so the first key always expires first.
        self._expires: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._expires)

    def renew(self, key: K, now: int) -> None:
        """Grant a lease, or extend it."""
        self._expires.pop(key, None)
        self._expires[key] = now + self._ttl_ns

    def release(self, key: K) -> None:
        """End a lease; releasing one that is over does nothing."""
        self._expires.pop(key, None)

    def pop_expired(self, now: int) -> list[K]:
        """Remove and return the keys whose time is over."""
        expired = []
        for key, expires in self._expires.items():
            if expires > now:
                break
            expired.append(key)
        for key in expired:
            del self._expires[key]
        return expired

    def next_expiry(self) -> int | None:
        """Time at which the first lease ends, or None."""
        return next(iter(self._expires.values()), None)

    def state(self) -> object:
        """Expiry by key."""
        return [[repr(key), expires] for key, expires in self._expires.items()]

    def check(self) -> None:
        """Keys are in order of expiry."""
        times = list(self._expires.values())
        assert times == sorted(times), times
