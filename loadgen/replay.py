"""Open-loop replay in one process: the intended send time is the clock, and a slow server slows nothing down.

The loop sends what is due, else makes one coming request ready, else sleeps until the next. Each request is a task that
reads its stream and gives one sample to the sink. `app.py` runs several of these side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import threading
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from loadgen.pacer import Due, Pacer
from loadgen.reading import Ask, Ending, Reading
from loadgen.schedule import ScheduledRequest
from loadgen.targets import Target
from services.core.clock import NS_PER_S, Clock
from services.core.slo import Outcome, RequestSample, Slo

LOOKAHEAD_NS = NS_PER_S
TICK_S = 0.05
LONGEST_SLEEP_S = 0.1
RECENT = 500


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sending process allows itself.

    Attributes:
        max_in_flight: at most so many requests are under way.
        timeout_s: a request without a deadline is ended after so long.
        drain_s: how long to wait for what is under way once stopped.
    """

    max_in_flight: int = 4096
    timeout_s: float = 600.0
    drain_s: float = 0.0


@dataclass(slots=True)
class Progress:
    """Counts so far, for those who watch, and what the loop measured of itself."""

    offered: int = 0
    sent: int = 0
    judged: int = 0
    met: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ttft_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    itl_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    loop_lags_ms: array[float] = field(default_factory=lambda: array("d"))
    rss_mib: array[float] = field(default_factory=lambda: array("d"))

    def add(self, sample: RequestSample, ending: Ending, slo: Slo) -> None:
        """A request is over."""
        self.outcomes[sample.outcome.value] += 1
        if slo.judged(sample):
            self.judged += 1
            self.met += slo.met(sample)
        ttft = sample.ttft_ms()
        if ttft is not None:
            self.ttft_ms.append(ttft)
        self.itl_ms.extend(gap / 1000 for gap in sample.gaps_us[-8:])
        if sample.outcome is not Outcome.OK:
            self.examples.setdefault((sample.outcome.value, sample.reason), ending.message)


class Replayer:
    """Sends one process's share of a schedule to one target.

    Args:
        requests: this process's share, in order.
        target: already open.
        clock: of this machine.
        limits: what the process allows itself.
        slo: for the counts of those who watch.
        sink: is given every sample, in order of their ends.
        run_id: prefix of request ids, so that two runs never collide.
        allowed_lag_ns: how late a request may be sent; one that is due for less when the run is stopped is not missed.
    """

    def __init__(
        self,
        requests: Iterator[ScheduledRequest],
        target: Target,
        clock: Clock,
        limits: Limits,
        slo: Slo,
        sink: Callable[[RequestSample], None],
        run_id: str = "run",
        allowed_lag_ns: int = 0,
    ) -> None:
        self._pacer = Pacer(requests, LOOKAHEAD_NS, limits.max_in_flight)
        self._target, self._clock, self._limits, self._slo = target, clock, limits, slo
        self._sink, self._run_id, self._allowed_lag_ns = sink, run_id, allowed_lag_ns
        self._start_ns = 0
        self._ready: dict[int, tuple[Ask, Any]] = {}
        self._to_prepare: deque[ScheduledRequest] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopped = False
        self.progress = Progress()
        self.unsent = 0
        self.cpu_s = 0.0

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._pacer.in_flight

    @property
    def waited(self) -> int:
        """Requests that were due while all slots were taken."""
        return self._pacer.waited

    def prepare_start(self) -> None:
        """Make ready what is due in the first moments, before the run's clock starts."""
        for request in self._pacer.read(0):
            self._prepare(request)

    async def run(self, start_ns: int) -> None:
        """Replay; returns when everything has ended, or after `stop`.

        Args:
            start_ns: the run's zero on this machine's clock; may lie a little ahead.
        """
        self._start_ns = start_ns
        used = _cpu_s()
        ticker = asyncio.create_task(self._tick())
        try:
            while not self._pacer.finished() and not self._stopped:
                await self._step()
            self.unsent = self._pacer.unsent(self._now_ns() - self._allowed_lag_ns)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._limits.drain_s if self._stopped else None)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            ticker.cancel()
            self.cpu_s = _cpu_s() - used

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True
        self._wake.set()

    def _now_ns(self) -> int:
        return self._clock.now_ns() - self._start_ns

    async def _step(self) -> None:
        self._to_prepare.extend(self._pacer.read(self._now_ns()))
        due = self._pacer.due(self._now_ns())
        for each in due:
            self.progress.offered += 1
            task = asyncio.create_task(self._send(each))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not due and self._to_prepare:
            self._prepare(self._to_prepare.popleft())
        if due or self._to_prepare:
            await asyncio.sleep(0)
            return
        wake_ns = self._pacer.next_wake_ns()
        self._wake.clear()
        sleep_s = LONGEST_SLEEP_S if wake_ns is None else (wake_ns - self._now_ns()) / NS_PER_S
        if sleep_s > 0:
            timer = asyncio.get_running_loop().call_later(min(sleep_s, LONGEST_SLEEP_S), self._wake.set)
            await self._wake.wait()
            timer.cancel()

    def _prepare(self, request: ScheduledRequest) -> None:
        if request.index in self._ready:
            return
        ask = Ask(
            f"{self._run_id}-{request.index}",
            request.prompt(),
            request.output_tokens,
            request.category,
            request.leave_after_tokens,
            request.read_delay_ns / NS_PER_S,
        )
        self._ready[request.index] = (ask, self._target.prepare(ask))

    async def _send(self, due: Due) -> None:
        request = due.request
        self._prepare(request)  # nothing is left to do unless the run is behind
        ask, prepared = self._ready.pop(request.index)
        timeout_s = self._limits.timeout_s
        if request.deadline_ns is not None:
            timeout_s = (due.intended_ns + request.deadline_ns - self._now_ns()) / NS_PER_S
        reading = Reading(self._clock)
        sent_ns = self._now_ns()
        self.progress.sent += 1
        ending = Ending(Outcome.UNFINISHED, "STOPPED", "the run was stopped first")
        try:
            if timeout_s <= 0:
                ending = Ending(Outcome.DEADLINE, "LATE", "its deadline had passed before it was sent")
            else:
                ending = await self._target.send(ask, prepared, reading, timeout_s)
        finally:
            end_ns = self._now_ns()
            self._pacer.ended(request, end_ns)
            self._wake.set()
            self._note(due, sent_ns, end_ns, reading, ending)

    def _note(self, due: Due, sent_ns: int, end_ns: int, reading: Reading, ending: Ending) -> None:
        request, start = due.request, self._start_ns
        sample = RequestSample(
            index=request.index,
            session=request.session,
            turn=request.turn,
            tenant=request.tenant,
            category=request.category,
            intended_ns=due.intended_ns,
            sent_ns=sent_ns,
            first_token_ns=None if reading.first_ns is None else reading.first_ns - start,
            last_token_ns=None if reading.last_ns is None else reading.last_ns - start,
            end_ns=end_ns,
            input_tokens=request.input_tokens,
            output_tokens=reading.tokens,
            wanted_tokens=request.output_tokens,
            outcome=ending.outcome,
            reason=ending.reason,
            fault=request.fault,
            cached_tokens=reading.cached_tokens,
            gaps_us=tuple(reading.gaps_us),
            phases_ms=reading.phases_ms,
            phase_starts_ms=reading.phase_starts_ms,
        )
        self.progress.add(sample, ending, self._slo)
        self._sink(sample)

    async def _tick(self) -> None:
        """Measures how late timers fire, and the memory once a second."""
        process = psutil.Process()
        for count in range(1 << 62):
            before = self._clock.now_ns()
            await asyncio.sleep(TICK_S)
            self.progress.loop_lags_ms.append((self._clock.now_ns() - before) / 1e6 - TICK_S * 1e3)
            if count % 20 == 0:
                self.progress.rss_mib.append(process.memory_info().rss / (1 << 20))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@dataclass(slots=True)
class Interrupt:
    """Whether Ctrl-C was pressed."""

    came: bool = False


@contextlib.contextmanager
def noted_interrupt() -> Iterator[Interrupt]:
    """The first Ctrl-C is only noted: raised anywhere, it would tear a message or a report; the second one raises."""
    noted = Interrupt()

    def note(_signal: int, _frame: object) -> None:
        if noted.came:
            raise KeyboardInterrupt
        noted.came = True

    if threading.current_thread() is not threading.main_thread():  # no Ctrl-C comes here
        yield noted
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
