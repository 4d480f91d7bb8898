"""What a client reads of a stream: tokens and when they came, how it ended, and the forms that servers use for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.core.clock import Clock
from services.core.slo import Outcome

LONGEST_EVENT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as a target needs it.

    Attributes:
        request_id: unique in this run and among runs.
        prompt: token ids, or text.
        output_tokens: how many to make.
        category: told to the server; empty for none.
        leave_after_tokens: the client disconnects when it has read so many; None stays.
        read_delay_s: a slow reader waits so long before each read.
    """

    request_id: str
    prompt: Sequence[int] | str
    output_tokens: int
    category: str = ""
    leave_after_tokens: int | None = None
    read_delay_s: float = 0.0


@dataclass(slots=True)
class Reading:
    """What a client has read so far, stamped when it was read."""

    clock: Clock
    first_ns: int | None = None
    last_ns: int | None = None
    tokens: int = 0
    cached_tokens: int = 0
    gaps_us: list[int] = field(default_factory=list)
    phases_ms: dict[str, float] = field(default_factory=dict)
    phase_starts_ms: dict[str, float] = field(default_factory=dict)

    def add(self, tokens: int) -> None:
        """Some tokens have just been read."""
        now = self.clock.now_ns()
        if self.last_ns is None:
            self.first_ns = now
        else:
            self.gaps_us.append((now - self.last_ns) // 1000)
        self.last_ns = now
        self.tokens += tokens


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended; `message` is what the server or the library said."""

    outcome: Outcome
    reason: str = ""
    message: str = ""


OK = Ending(Outcome.OK)


PHASES = (
    ("queue", "received", "prefill_start"),
    ("encode", "encode_start", "encode_end"),
    ("prefill", "prefill_start", "prefill_end"),
    ("transfer", "handoff_offered", "handoff_committed"),
    ("decode", "decode_start", "finished"),
)
"""Phase, and the marks of `core/timeline.py` that it lies between."""

TIMINGS = (("prefill", "prompt_ms"), ("decode", "predicted_ms"))
"""Phase, and its name in the `timings` of llama.cpp's server."""


def phases_of(events: Iterable[tuple[str, int]]) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds in each phase of a timeline of (mark, offset in microseconds), and when each began.

    Only phases with both marks; beginnings are counted from the timeline's first mark.
    """
    marks: dict[str, int] = {}
    for name, offset_us in events:
        marks.setdefault(name, offset_us)
    zero = min(marks.values(), default=0)
    known = [each for each in PHASES if each[1] in marks and each[2] in marks]
    lengths = {phase: max(0, marks[end] - marks[start]) / 1000 for phase, start, end in known}
    return lengths, {phase: (marks[start] - zero) / 1000 for phase, start, _ in known}


class EventStream:
    """Server-sent events of an OpenAI stream, fed as bytes come.

    Attributes:
        done: `[DONE]` came.
        finished: a finish_reason came.
        output_tokens: as `usage` says; 0 while it has not come.
        cached_tokens: as `usage` says.
        phases_ms: prefill and decode, where the server tells them in llama.cpp's `timings`.
        problem: an error event, or a line that is no JSON.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.done = self.finished = False
        self.output_tokens = self.cached_tokens = 0
        self.phases_ms: dict[str, float] = {}
        self.problem: Ending | None = None

    def feed(self, chunk: bytes) -> int:
        """Take bytes; returns how many messages with text were completed by them."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > LONGEST_EVENT_BYTES:
            self.problem = Ending(Outcome.TRUNCATED, "BAD_EVENT", f"a line of more than {LONGEST_EVENT_BYTES} bytes")
        return sum(self._line(line.rstrip(b"\r")) for line in lines if line.startswith(b"data:"))

    def _line(self, line: bytes) -> bool:
        payload = line[5:].strip()
        if payload == b"[DONE]":
            self.done = True
            return False
        try:
            message = json.loads(payload)
            return self._message(message)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError):
            self.problem = Ending(Outcome.TRUNCATED, "BAD_EVENT", f"not an OpenAI event: {payload[:200]!r}")
            return False

    def _message(self, message: dict[str, Any]) -> bool:
        if "error" in message:
            error = message["error"]
            self.problem = Ending(Outcome.ERROR, error_name(error), str(error.get("message")))
            return False
        usage = message.get("usage") or {}
        self.output_tokens = usage.get("completion_tokens") or self.output_tokens
        self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or self.cached_tokens
        timings = message.get("timings") or {}
        self.phases_ms |= {name: float(timings[key]) for name, key in TIMINGS if key in timings}
        has_text = False
        for choice in message.get("choices") or ():
            delta = choice.get("delta") or choice
            has_text |= bool(delta.get("content") or delta.get("text") or delta.get("reasoning_content"))
            self.finished |= choice.get("finish_reason") is not None
        return has_text


def error_name(error: dict[str, Any]) -> str:
    """The stable name in an OpenAI error body; servers that repeat the status as `code` name it in `type`."""
    code = error.get("code")
    return str(code if code and not isinstance(code, int) else error.get("type") or code or "")


def http_ending(status: int, body: str) -> Ending:
    """What a status that is not 200 means; OpenAI's error body names the reason."""
    reason, message = f"HTTP_{status}", body[:300]
    try:
        error = json.loads(body)["error"]
        reason, message = f"HTTP_{status} {error_name(error)}".strip(), str(error["message"])
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # not OpenAI's form; the text itself is the message
    return Ending(Outcome.REJECTED if status == 429 else Outcome.ERROR, reason, message)
