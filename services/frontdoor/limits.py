"""What each tenant may take of one front door: requests in flight, and buckets of requests and of tokens that refill.

A prompt's tokens are known before it is placed. An output's are not: as many are taken as were asked for, and those
that were not made are given back when the call is over. So a tenant never has more than its buckets hold, however many
calls it makes at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from services.core.clock import NS_PER_MS, NS_PER_S, Clock
from services.core.errors import QuotaError
from services.frontdoor.auth import Identity
from services.frontdoor.config import TenantLimits

BUSY_RETRY_MS = 1000
"""What a tenant with too many requests in flight is told to wait: nobody knows when one of them ends."""
WAITS = {"prompt": "PROMPT_TOKENS_LIMITED", "output": "OUTPUT_TOKENS_LIMITED"}
"""Reasons by kind of tokens."""


@dataclass(slots=True)
class Bucket:
    """Fills with time, up to its size.

    Attributes:
        level: what is in it; below 0 where more was taken than fits.
        filled_ns: when `level` was true.
    """

    level: float
    filled_ns: int

    def wait_ms(self, rate: float | None, size: float, cost: float, now: int) -> int:
        """Fill; 0 when `cost` may be taken, else milliseconds until it may. What is above `size` needs it full."""
        if rate is None:
            self.level, self.filled_ns = size, now
            return 0
        self.level = min(self.level + (now - self.filled_ns) / NS_PER_S * rate, size)
        self.filled_ns = now
        missing = min(cost, size) - self.level
        return 0 if missing <= 0 else max(1, math.ceil(missing / rate * NS_PER_S / NS_PER_MS))


@dataclass(slots=True)
class Usage:
    """One tenant's.

    Attributes:
        running: requests in flight.
        requests, prompt, output: what may still come at once.
    """

    running: int
    requests: Bucket
    prompt: Bucket
    output: Bucket


class Hold:
    """What one call takes of its tenant's limits.

    Args:
        refused: is told the reason of a refusal.
    """

    def __init__(self, identity: Identity, usage: Usage, clock: Clock, refused: Callable[[str], None]) -> None:
        self._identity, self._usage, self._clock, self._refused = identity, usage, clock, refused
        self._prompt_tokens = self._output_tokens = 0

    def charge(self, prompt_tokens: int, output_tokens: int) -> None:
        """Take tokens, or nothing.

        Args:
            output_tokens: that are asked for.

        Raises:
            QuotaError: the tenant sends, or asks for, tokens too fast.
        """
        limits, now = self._identity.limits, self._clock.now_ns()
        prompt, output = self._usage.prompt, self._usage.output
        kinds = (
            ("prompt", prompt, limits.prompt_tokens_per_s, limits.burst_prompt_tokens, prompt_tokens),
            ("output", output, limits.output_tokens_per_s, limits.burst_output_tokens, output_tokens),
        )
        for kind, bucket, rate, size, cost in kinds:
            wait_ms = bucket.wait_ms(rate, float(size), float(cost), now)
            if wait_ms:
                self._refused(WAITS[kind])
                message = f"tenant {self._identity.tenant} may have {rate:g} {kind} tokens a second; send again later"
                subject = f"tenant:{self._identity.tenant}"
                raise QuotaError(message, subject=subject, retry_after_ms=wait_ms, reason=WAITS[kind])
        prompt.level -= prompt_tokens
        output.level -= output_tokens
        self._prompt_tokens, self._output_tokens = prompt_tokens, output_tokens

    def settle(self, began: bool, output_tokens: int) -> None:
        """The call is over: what it took and did not use is given back.

        Args:
            began: its prompts went to a worker, or were answered from the cache.
            output_tokens: that it got.
        """
        self._usage.output.level += self._output_tokens - output_tokens
        if not began:
            self._usage.prompt.level += self._prompt_tokens
        self._prompt_tokens = self._output_tokens = 0


class TenantLimiter:
    """Admits requests tenant by tenant; there are no more tenants than the file of keys names.

    Args:
        refused: is told the reason of each refusal.
    """

    def __init__(self, clock: Clock, refused: Callable[[str], None] = lambda reason: None) -> None:
        self._clock = clock
        self._refused = refused
        self._usages: dict[str, Usage] = {}

    def running(self, tenant: str) -> int:
        """A tenant's requests in flight."""
        usage = self._usages.get(tenant)
        return usage.running if usage else 0

    @contextlib.contextmanager
    def hold(self, identity: Identity) -> Iterator[Hold]:
        """Count a request while the block runs.

        Raises:
            QuotaError: the tenant has too many in flight, or sends them too fast.
        """
        limits, now = identity.limits, self._clock.now_ns()
        usage = self._usages.get(identity.tenant)
        if usage is None:
            usage = self._usages[identity.tenant] = full(limits, now)
        most = limits.max_running_requests
        subject = f"tenant:{identity.tenant}"
        if most is not None and usage.running >= most:
            self._refused("TOO_MANY_RUNNING")
            message = f"{most} requests of tenant {identity.tenant} are in flight; send again later"
            raise QuotaError(message, subject=subject, retry_after_ms=BUSY_RETRY_MS, reason="TOO_MANY_RUNNING")
        wait_ms = usage.requests.wait_ms(limits.requests_per_s, float(limits.burst_requests), 1.0, now)
        if wait_ms:
            self._refused(QuotaError.default_reason)
            message = f"tenant {identity.tenant} may send {limits.requests_per_s:g} requests a second; send again later"
            raise QuotaError(message, subject=subject, retry_after_ms=wait_ms)
        usage.requests.level -= 1.0
        usage.running += 1
        try:
            yield Hold(identity, usage, self._clock, self._refused)
        finally:
            usage.running -= 1


def full(limits: TenantLimits, now: int) -> Usage:
    """A tenant that has taken nothing."""
    sizes = (limits.burst_requests, limits.burst_prompt_tokens, limits.burst_output_tokens)
    return Usage(0, *(Bucket(float(size), now) for size in sizes))
