"""What surrounds every handler, one concern each; `LAYERS` of a door stand in the order in which they are entered.

The interceptor itself is the outermost: it names the call and turns errors into statuses. Then: observe (metrics, log),
authenticate, authorize, limit, deadline, and the handler, which validates.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

from services.core.clock import NS_PER_MS, Clock
from services.core.errors import CancelledError, DeadlineError, TriptychError
from services.core.timeline import MarkKind
from services.frontdoor.auth import Authenticator
from services.frontdoor.call import CLIENT_TIMER_NS, Call
from services.frontdoor.config import Role
from services.frontdoor.limits import TenantLimiter

logger = logging.getLogger(__name__)

HEALTH = "grpc.health.v1.Health"
OPEN_PATHS = ("/health", "/livez", "/readyz", "/version", "/metrics", "/openapi.json")
"""Of the HTTP door: for whoever probes, scrapes or reads about the server, without a key."""
ADMIN_SERVICES = ("triptych.v1.ClusterService", "triptych.v1.TraceService")
LIMITED_METHODS = (
    *("/triptych.v1.InferenceService/Generate", "/triptych.v1.InferenceService/CountTokens"),
    *("/v1/chat/completions", "/v1/completions"),
)
"""Methods that cost something, and therefore count against a tenant's limits."""

Layer: TypeAlias = Callable[[Call], AbstractContextManager[None]]
Observer: TypeAlias = Callable[[Call, str, int], None]
"""Told the end of every call: the call, its status name, and the time (monotonic ns)."""


def standard_layers(
    authenticator: Authenticator, limiter: TenantLimiter, clock: Clock, observers: Sequence[Observer]
) -> tuple[Layer, ...]:
    """The layers of either door, outermost first."""
    return (
        Observe(clock, observers),
        Authenticate(authenticator),
        authorize,
        Limit(limiter),
        Deadline(clock),
    )


def is_open(call: Call) -> bool:
    """Whether a call needs no key and is not worth telling."""
    return call.service == HEALTH or call.method in OPEN_PATHS


class Observe:
    """Tells the end of every call, whatever ended it; probes of health are not worth telling."""

    def __init__(self, clock: Clock, observers: Sequence[Observer]) -> None:
        self._clock = clock
        self._observers = observers

    @contextlib.contextmanager
    def __call__(self, call: Call) -> Iterator[None]:
        if is_open(call):
            yield
            return
        code = "OK"
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            code = CancelledError.code  # a deadline of the client ends a call in the same way
            if self._clock.now_ns() >= call.deadline_ns - CLIENT_TIMER_NS:
                code = DeadlineError.code
            raise
        except TriptychError as error:
            code = error.code
            raise
        except Exception:
            code = TriptychError.code
            raise
        finally:
            now = self._clock.now_ns()
            for observe in self._observers:
                observe(call, code, now)


def log_end(call: Call, code: str, now: int) -> None:
    """One line for every call that did not end well."""
    if code != "OK":
        logger.info(
            "%s ended with %s after %d ms (request %s, tenant %s, key %s)",
            *(call.method, code, (now - call.received_ns) // NS_PER_MS),
            *(call.request_id, call.identity.tenant or "-", call.identity.key_id or "-"),
        )


class Authenticate:
    """Finds out who calls. Health alone is open, and what is like it: whoever probes has no key."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    @contextlib.contextmanager
    def __call__(self, call: Call) -> Iterator[None]:
        if not is_open(call):
            call.identity = self._authenticator.check(call.metadata.get("authorization"))
        yield


@contextlib.contextmanager
def authorize(call: Call) -> Iterator[None]:
    """Operators' services are for admins."""
    if call.service in ADMIN_SERVICES:
        call.identity.require(Role.ADMIN)
    yield


class Limit:
    """Holds tenants to their limits."""

    def __init__(self, limiter: TenantLimiter) -> None:
        self._limiter = limiter

    @contextlib.contextmanager
    def __call__(self, call: Call) -> Iterator[None]:
        if call.method not in LIMITED_METHODS:
            yield
            return
        with self._limiter.hold(call.identity) as hold:
            call.hold = hold
            try:
                yield
            finally:
                timelines = [stream.timeline for stream in call.streams]
                tokens = sum(len(timeline.token_times_ns) for timeline in timelines)
                began = tokens > 0 or any(each.at_ns(MarkKind.DISPATCHED) is not None for each in timelines)
                hold.settle(began, tokens)


class Deadline:
    """Refuses calls that are too late already, before they cost anything."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @contextlib.contextmanager
    def __call__(self, call: Call) -> Iterator[None]:
        if self._clock.now_ns() >= call.deadline_ns:
            raise DeadlineError("the deadline passed before the call was read", metadata={"stage": "received"})
        yield
