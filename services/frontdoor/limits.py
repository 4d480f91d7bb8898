"""What each tenant may take of one front door: requests in flight, and a token bucket of new ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from services.core.clock import NS_PER_MS, NS_PER_S, Clock
from services.core.errors import QuotaError
from services.frontdoor.auth import Identity
from services.frontdoor.config import TenantLimits

BUSY_RETRY_MS = 1000
"""What a tenant with too many requests in flight is told to wait: nobody knows when one of them ends."""


@dataclass(slots=True)
class Usage:
    """One tenant's.

    Attributes:
        running: requests in flight.
        tokens: of the bucket, each worth one request.
        filled_ns: when `tokens` was true.
    """

    running: int
    tokens: float
    filled_ns: int


class TenantLimiter:
    """Admits requests tenant by tenant; there are no more tenants than the file of keys names."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._usages: dict[str, Usage] = {}

    def running(self, tenant: str) -> int:
        """A tenant's requests in flight."""
        usage = self._usages.get(tenant)
        return usage.running if usage else 0

    @contextlib.contextmanager
    def hold(self, identity: Identity) -> Iterator[None]:
        """Count a request while the block runs.

        Raises:
            QuotaError: the tenant has too many in flight, or sends them too fast.
        """
        limits, now = identity.limits, self._clock.now_ns()
        usage = self._usages.setdefault(identity.tenant, Usage(0, float(limits.burst_requests), now))
        most = limits.max_running_requests
        subject = f"tenant:{identity.tenant}"
        if most is not None and usage.running >= most:
            message = f"{most} requests of tenant {identity.tenant} are in flight; send again later"
            raise QuotaError(message, subject=subject, retry_after_ms=BUSY_RETRY_MS, reason="TOO_MANY_RUNNING")
        wait_ms = take_token(usage, limits, now)
        if wait_ms:
            message = f"tenant {identity.tenant} may send {limits.requests_per_s:g} requests a second; send again later"
            raise QuotaError(message, subject=subject, retry_after_ms=wait_ms)
        usage.running += 1
        try:
            yield
        finally:
            usage.running -= 1


def take_token(usage: Usage, limits: TenantLimits, now: int) -> int:
    """Take one token of a bucket that fills at `requests_per_s` up to `burst_requests`.

    Returns:
        0 when there was one, else milliseconds until there is.
    """
    rate = limits.requests_per_s
    if rate is None:
        return 0
    grown = usage.tokens + (now - usage.filled_ns) / NS_PER_S * rate
    usage.tokens, usage.filled_ns = min(grown, float(limits.burst_requests)), now
    if usage.tokens < 1.0:
        return max(1, math.ceil((1.0 - usage.tokens) / rate * NS_PER_S / NS_PER_MS))
    usage.tokens -= 1.0
    return 0
