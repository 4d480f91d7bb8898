"""What is to be sent, when, and what its client does wrong: the values between the trace readers and the replay."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from services.core.clock import NS_PER_S
from services.core.errors import ConfigError
from services.core.seeds import stream

Prompt = Sequence[int] | str
"""Token ids, or text."""


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """One request of a schedule; a schedule is in order of `intended_ns`.

    Attributes:
        index: place in the schedule, from 0.
        intended_ns: when to send it, nanoseconds since the run's start. Of a closed-loop turn it is only the time at
            which to read it: it is due `think_ns` after the end of the turn before.
        input_tokens: prompt tokens.
        output_tokens: tokens to make, exactly.
        prompt: makes the prompt; called once, shortly before it is due, so that prompts do not fill the memory.
        session: conversation that it is a turn of; unique where there are no conversations.
        turn: its place there, from 0.
        last_turn: whether no turn of the session follows.
        think_ns: closed-loop turns wait so long after the end of the turn before; None is sent at `intended_ns`.
        tenant: who asks.
        category: what is asked.
        deadline_ns: its client gives up so long after the intended send time; None waits.
        leave_after_tokens: its client disconnects after so many tokens; None stays.
        read_delay_ns: its client waits so long before each read; 0 reads at once.
    """

    index: int
    intended_ns: int
    input_tokens: int
    output_tokens: int
    prompt: Callable[[], Prompt]
    session: str
    turn: int = 0
    last_turn: bool = True
    think_ns: int | None = None
    tenant: str = ""
    category: str = ""
    deadline_ns: int | None = None
    leave_after_tokens: int | None = None
    read_delay_ns: int = 0

    @property
    def fault(self) -> str:
        """What its client does by plan: disconnect, slow_reader, deadline, or nothing."""
        if self.leave_after_tokens is not None:
            return "disconnect"
        if self.read_delay_ns:
            return "slow_reader"
        return "" if self.deadline_ns is None else "deadline"


Schedule = Callable[[], Iterator[ScheduledRequest]]
"""Makes the schedule from its start; picklable, so that every sending process reads it for itself."""


ROW_FIELDS: dict[str, type | tuple[type, ...]] = {
    "arrival_s": (int, float),
    "input_tokens": int,
    "output_tokens": int,
    "prompt": str,
    "prompt_token_ids": list,
    "session": str,
    "turn": int,
    "last_turn": bool,
    "think_s": (int, float),
    "tenant": str,
    "category": str,
    "deadline_s": (int, float),
    "leave_after_tokens": int,
    "read_delay_s": (int, float),
    "label": dict,
}
SMALLEST_TOKEN_ID = 1000  # below are special and single-byte tokens in common vocabularies


@dataclass(frozen=True, slots=True)
class FileSchedule:
    """A schedule in a file: one JSON object a line, of the names in ROW_FIELDS, in order of `arrival_s`.

    A row needs `arrival_s`, `output_tokens`, and one of `prompt`, `prompt_token_ids` and `input_tokens`; of the last
    token ids are drawn. What stands in a row's `label` is for whoever judges the answers.

    Attributes:
        path: of the file; read line by line.
        speed: arrivals are so many times closer; think times and deadlines stay.
        seed: of drawn prompts.
        vocab_size: token ids are drawn below this.
    """

    path: Path
    speed: float = 1.0
    seed: int = 0
    vocab_size: int = 32_000

    def __call__(self) -> Iterator[ScheduledRequest]:
        last_ns = 0
        with self.path.open(encoding="utf-8") as lines:
            for index, line in enumerate(lines):
                request = self._request(index, line)
                if request.intended_ns < last_ns:
                    raise self._wrong(index, "arrival_s", "is before the row above; sort the rows")
                last_ns = request.intended_ns
                yield request

    def _wrong(self, index: int, field: str, fix: str) -> ConfigError:
        return ConfigError(f"{self.path}:{index + 1}", field, fix)

    def _row(self, index: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            raise self._wrong(index, line[:60].rstrip(), "must be one JSON object") from None
        if not isinstance(row, dict):
            raise self._wrong(index, line[:60].rstrip(), "must be one JSON object")
        for name, value in row.items():
            kind = ROW_FIELDS.get(name)
            if kind is None:
                raise self._wrong(index, name, f"is no field; known are {', '.join(ROW_FIELDS)}")
            if not isinstance(value, kind) or (isinstance(value, int | float) and value < 0):
                raise self._wrong(index, name, f"cannot be {str(value)[:60]!r}")
        for name in ("arrival_s", "output_tokens"):
            if name not in row:
                raise self._wrong(index, name, "is missing")
        return row

    def _request(self, index: int, line: str) -> ScheduledRequest:
        row = self._row(index, line)
        prompt = row.get("prompt") or row.get("prompt_token_ids")
        tokens = row.get("input_tokens") or (len(prompt) if isinstance(prompt, list) else 0)
        if not prompt and not tokens:
            raise self._wrong(index, "input_tokens", "is missing, and so are prompt and prompt_token_ids")
        session = row.get("session", f"request-{index}")
        return ScheduledRequest(
            index=index,
            intended_ns=round(row["arrival_s"] * NS_PER_S / self.speed),
            input_tokens=tokens,
            output_tokens=row["output_tokens"],
            prompt=partial(self._drawn, index, tokens) if prompt is None else partial(_given, prompt),
            session=session,
            turn=row.get("turn", 0),
            last_turn=row.get("last_turn", "session" not in row),
            think_ns=_ns(row.get("think_s")),
            tenant=row.get("tenant", ""),
            category=row.get("category", ""),
            deadline_ns=_ns(row.get("deadline_s")),
            leave_after_tokens=row.get("leave_after_tokens"),
            read_delay_ns=_ns(row.get("read_delay_s")) or 0,
        )

    def _drawn(self, index: int, tokens: int) -> Prompt:
        return stream(self.seed, f"loadgen/prompt/{index}").choices(
            range(min(SMALLEST_TOKEN_ID, self.vocab_size - 1), self.vocab_size), k=tokens
        )

    def mean_rate(self) -> float:
        """Requests per second over the file's length, before `speed`.

        Raises:
            ConfigError: fewer than two rows, or all at one time.
        """
        arrivals = [request.intended_ns for request in FileSchedule(self.path)()]
        if len(arrivals) < 2 or arrivals[-1] == 0:
            raise ConfigError("--workload", str(self.path), "needs at least two rows at different times to have a rate")
        return (len(arrivals) - 1) * NS_PER_S / arrivals[-1]


def _given(prompt: Prompt) -> Prompt:
    return prompt


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * NS_PER_S)
