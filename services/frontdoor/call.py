"""What is known of one call beside its message; made by each door, read by layers and handlers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from services.core.clock import NS_PER_MS, NS_PER_S, Clock
from services.core.errors import TriptychError
from services.core.seeds import new_request_id
from services.frontdoor.auth import ANYBODY, Identity

REQUEST_ID_KEY = "x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a client may call its request."""


@dataclass(slots=True)
class Call:
    """One call.

    Attributes:
        method: full name, `/triptych.v1.InferenceService/Generate`, or the path of an HTTP request.
        metadata: the client's, text entries alone; or its HTTP headers, names in lower case.
        request_id: goes into the answer, errors and logs.
        received_ns: monotonic.
        deadline_ns: when the client, or the server's own bound, gives up; monotonic.
        deadline_unix_ms: the same on the clock that crosses processes.
        identity: who calls, once that is known.
        num_messages: sent to the client so far.
        first_message_ns: when the first of them was.
        failure: what the client was told inside an answer, where no exception could leave the handler any more.
    """

    method: str
    metadata: Mapping[str, str] = field(repr=False)
    request_id: str
    received_ns: int
    deadline_ns: int
    deadline_unix_ms: int
    identity: Identity = ANYBODY
    num_messages: int = 0
    first_message_ns: int | None = None
    failure: TriptychError | None = None

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
) -> Call:
    """A call that was received just now.

    Args:
        remaining_s: the client's budget; None: it set none.
        request_id: the one that the message names; it wins over the metadata's.
    """
    now = clock.now_ns()
    budget_s = min(default_deadline_s if remaining_s is None else max(remaining_s, 0.0), max_deadline_s)
    offered = request_id or metadata.get(REQUEST_ID_KEY, "")
    usable = REQUEST_ID.fullmatch(offered)  # what is not may break a log's line or a header
    return Call(
        method=method,
        metadata=metadata,
        request_id=offered if usable else new_request_id(),
        received_ns=now,
        deadline_ns=now + int(budget_s * NS_PER_S),
        deadline_unix_ms=clock.unix_ms() + int(budget_s * NS_PER_S) // NS_PER_MS,
    )
