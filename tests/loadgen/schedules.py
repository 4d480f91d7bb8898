"""Schedules for tests: picklable, because every sending process makes its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from loadgen.schedule import ScheduledRequest
from loadgen.targets import HttpTarget, TargetSpec
from services.core.clock import NS_PER_S, Clock


def numbers(length: int, salt: int) -> list[int]:
    """A prompt of that many token ids."""
    return [(salt * 31 + place * 7) % 40_000 for place in range(length)]


@dataclass(frozen=True)
class Steady:
    """`count` requests at a constant rate; the items of `fields` go into one request after the other, in turn."""

    count: int
    rate: float
    prompt_tokens: int = 16
    output_tokens: int = 16
    turns: int = 1
    think_s: float = 0.01
    fields: tuple[dict[str, Any], ...] = ({},)

    def __call__(self) -> Iterator[ScheduledRequest]:
        for index in range(self.count):
            session, turn = divmod(index, self.turns)
            yield ScheduledRequest(
                index=index,
                intended_ns=round((session * self.turns if self.turns > 1 else index) * NS_PER_S / self.rate),
                input_tokens=self.prompt_tokens,
                output_tokens=self.output_tokens,
                prompt=partial(numbers, self.prompt_tokens, index),
                session=f"s{session}",
                turn=turn,
                last_turn=turn == self.turns - 1,
                think_ns=round(self.think_s * NS_PER_S) if turn else None,
                tenant=f"tenant-{session % 2}",
                category=("chat", "code")[session % 2],
                **self.fields[index % len(self.fields)],
            )


class SlowGenerator(HttpTarget):
    """A planted fault: building a request blocks the sending loop for 50 ms."""

    def prepare(self, ask: Any) -> Any:
        time.sleep(0.05)
        return super().prepare(ask)


def connect_slowly(spec: TargetSpec, clock: Clock) -> SlowGenerator:
    """A sending process that cannot keep up above 20 requests a second."""
    return SlowGenerator(spec, clock)
