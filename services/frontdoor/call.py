"""What is known of one call beside its message; made by each door, read by layers and handlers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from services.core.clock import NS_PER_MS, NS_PER_S, Clock
from services.core.errors import TriptychError
from services.core.request import Request
from services.core.seeds import new_request_id
from services.frontdoor.auth import ANYBODY, Identity
from services.frontdoor.client_stream import ClientStream
from services.frontdoor.limits import Hold
from services.telemetry.tracing import TraceIdentity, join_trace

REQUEST_ID_KEY = "x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a client may call its request."""
CLIENT_TIMER_NS = 100 * NS_PER_MS
"""A client that ends its call this shortly before the deadline did so for the deadline: its timer began earlier."""


@dataclass(slots=True)
class Call:
    """One call.

    Attributes:
        method: full name, `/triptych.v1.InferenceService/Generate`, or the path of an HTTP request.
        metadata: the client's, text entries alone; or its HTTP headers, names in lower case.
        request_id: goes into the answer, errors and logs.
        trace: which trace it belongs to.
        received_ns: when the door first saw it; monotonic.
        deadline_ns: when the client, or the server's own bound, gives up; monotonic.
        deadline_unix_ms: the same on the clock that crosses processes.
        identity: who calls, once that is known.
        operation: `chat` or `text_completion`.
        tokenized_ns: when its prompts were checked and tokenized.
        streams: the outputs that were begun for it.
        num_messages: sent to the client so far.
        first_message_ns: when the first of them was.
        failure: what the client was told inside an answer, where no exception could leave the handler any more.
        hold: what it takes of its tenant's limits; None where it counts against none.
        over_ns: when the last byte of the answer was on its way; None: it is not yet.
    """

    method: str
    metadata: Mapping[str, str] = field(repr=False)
    request_id: str
    trace: TraceIdentity
    received_ns: int
    deadline_ns: int
    deadline_unix_ms: int
    identity: Identity = ANYBODY
    operation: str = "text_completion"
    tokenized_ns: int | None = None
    streams: list[ClientStream] = field(default_factory=list, repr=False)
    num_messages: int = 0
    first_message_ns: int | None = None
    failure: TriptychError | None = None
    hold: Hold | None = None
    over_ns: int | None = None
    _waiting: list[Callable[[int], None]] = field(default_factory=list, repr=False)

    def charge(self, requests: Sequence[Request]) -> None:
        """Take the tokens of its outputs, and of each of their prompts once, from its tenant's limits.

        Raises:
            QuotaError: the tenant sends, or asks for, tokens too fast.
        """
        if self.hold is not None:
            prompts = {id(request.prompt): len(request.prompt) for request in requests}
            self.hold.charge(sum(prompts.values()), sum(request.sampling.max_tokens for request in requests))

    def when_over(self, tell: Callable[[int], None]) -> None:
        """Be told `over_ns`, once it is known."""
        if self.over_ns is None:
            self._waiting.append(tell)
        else:
            tell(self.over_ns)

    def over(self, now: int) -> None:
        """The last byte of the answer is on its way."""
        self.over_ns = now
        while self._waiting:
            self._waiting.pop()(now)

    @property
    def service(self) -> str:
        """Full name of the service."""
        return self.method.rpartition("/")[0].removeprefix("/")


current_call: ContextVar[Call] = ContextVar("current_call")
"""The call that the running task serves."""


def new_call(
    clock: Clock,
    method: str,
    metadata: Mapping[str, str],
    remaining_s: float | None,
    default_deadline_s: float,
    max_deadline_s: float,
    request_id: str = "",
    received_ns: int | None = None,
) -> Call:
    """A call whose headers are there.

    Args:
        remaining_s: the client's budget; None: it set none.
        request_id: the one that the message names; it wins over the metadata's.
        received_ns: when the door first saw it; None: just now.
    """
    now = clock.now_ns()
    budget_s = min(default_deadline_s if remaining_s is None else max(remaining_s, 0.0), max_deadline_s)
    offered = request_id or metadata.get(REQUEST_ID_KEY, "")
    usable = REQUEST_ID.fullmatch(offered)  # what is not may break a log's line or a header
    return Call(
        method=method,
        metadata=metadata,
        request_id=offered if usable else new_request_id(),
        trace=join_trace(metadata),
        received_ns=now if received_ns is None else received_ns,
        deadline_ns=now + int(budget_s * NS_PER_S),
        deadline_unix_ms=clock.unix_ms() + int(budget_s * NS_PER_S) // NS_PER_MS,
    )
