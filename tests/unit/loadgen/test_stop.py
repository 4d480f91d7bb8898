"""A run that is stopped: what counts as missed, and what Ctrl-C does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from loadgen.reading import Ask, Ending, Reading
from loadgen.replay import Limits, Replayer, noted_interrupt
from loadgen.schedule import ScheduledRequest
from services.core.clock import NS_PER_MS, VirtualClock
from services.core.slo import Outcome, Slo


class StoppingTarget:
    """Answers at once; the first answer takes 100 ms, and the run is stopped in them."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.replayer: Replayer | None = None

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    def prepare(self, ask: Ask) -> Any:
        """Nothing to prepare."""

    async def send(self, ask: Ask, prepared: Any, reading: Reading, timeout_s: float) -> Ending:
        """Stop the run a little later."""
        assert self.replayer is not None
        self.clock.advance_to(self.clock.now_ns() + 100 * NS_PER_MS)
        self.replayer.stop()
        return Ending(Outcome.OK)


def schedule() -> Iterator[ScheduledRequest]:
    """A request every 30 ms."""
    for index in range(100):
        yield ScheduledRequest(index, index * 30 * NS_PER_MS, 1, 1, partial(list, [1]), f"s{index}")


@pytest.mark.parametrize(("allowed_ms", "missed"), [(0, 3), (25, 2), (50, 1), (1000, 0)])
async def test_a_request_that_may_still_come_in_time_is_not_missed_at_the_stop(allowed_ms: int, missed: int) -> None:
    clock = VirtualClock()
    target = StoppingTarget(clock)
    samples: list[object] = []
    allowed_ns = allowed_ms * NS_PER_MS
    replayer = Replayer(schedule(), target, clock, Limits(), Slo(), samples.append, allowed_lag_ns=allowed_ns)
    target.replayer = replayer
    await replayer.run(0)
    assert (len(samples), replayer.unsent) == (1, missed)


def test_the_first_ctrl_c_is_noted_and_the_second_one_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with noted_interrupt() as interrupt:
        assert not interrupt.came
        signal.raise_signal(signal.SIGINT)
        assert interrupt.came
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
