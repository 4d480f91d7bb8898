"""Cores of one host that its processes share: who computes, on how many of them, and how fast beside the others.

Workers lend their cores as those of a real host do (`worker/core_ledger.py`); threads beyond the number of cores
share them evenly; cores that compute beside each other are slower than one alone, decodes more so than prompts; and
a core that paused is slower at first, for its clock was lowered or others took the caches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from services.core.clock import NS_PER_MS
from services.core.output import Output, by_request
from services.sim.config import HostConfig
from services.sim.event_queue import EventQueue
from services.worker.config import IDLE_NS

PAUSE_NS = 50 * NS_PER_MS
"""An idle time after which a worker begins slower."""
EDGE, HANDOFF = -1, -2
"""Numbers of the jobs of front door and clients, and of KV between two workers."""


@dataclass(slots=True, eq=False)
class _Job:
    number: int
    left_ns: float
    threads: int
    slowdown: float
    done: Callable[[int], None]
    what: int


@dataclass(slots=True, eq=False)
class _Wish:
    """A step that is to begin, or began."""

    number: int
    own: int
    may_borrow: bool
    alone_ns: int
    done: Callable[[int], None]
    what: int


class Cores:
    """The cores of one host.

    Args:
        host: how many there are, and what sharing them costs.
    """

    def __init__(self, queue: EventQueue, host: HostConfig) -> None:
        assert host.cores is not None, "workers with devices of their own share nothing"
        self._cores = host.cores
        self._host = host
        self._queue = queue
        self._jobs: list[_Job] = []
        self._since_ns = 0
        self._planned = 0
        self._owned: dict[int, int] = {}
        self._used: dict[int, int] = {}
        self._idle_since_ns: dict[int, int] = {}
        self._slow_ns: dict[int, int] = {}
        self._waiting: list[_Wish] = []

    # --- workers' steps -----------------------------------------------------------------------------------------

    def join(self, number: int, own: int) -> None:
        """A worker with `own` cores; its number orders ends at the same time."""
        self._owned[number], self._used[number], self._idle_since_ns[number] = own, 0, self._queue.now

    def leave(self, number: int) -> None:
        """Its process ended: its cores are nobody's."""
        del self._owned[number], self._used[number], self._idle_since_ns[number]
        self._slow_ns.pop(number, None)
        self._waiting = [wish for wish in self._waiting if wish.number != number]
        self._progress()
        self._jobs = [job for job in self._jobs if job.number != number]
        self._plan()
        self._grant_waiting()

    def step(self, number: int, alone_ns: int, may_borrow: bool, done: Callable[[int], None], what: int) -> None:
        """Call `done(what)` when a step that takes `alone_ns` on the worker's own cores is over.

        Args:
            may_borrow: a short step, which may use cores of workers that idle.
        """
        alone_ns = self._waking(number, alone_ns + round(self._host.step_ms * NS_PER_MS))
        self._waiting.append(_Wish(number, self._owned[number], may_borrow, alone_ns, done, what))
        self._grant_waiting()

    def _waking(self, number: int, alone_ns: int) -> int:
        """A step's time where its first part, or all of it, comes after a pause."""
        if self._host.wake_slowdown <= 1.0:
            return alone_ns
        if self._queue.now - self._idle_since_ns[number] >= PAUSE_NS:
            self._slow_ns[number] = round(self._host.wake_ms * NS_PER_MS)
        slow_ns = min(alone_ns, self._slow_ns.get(number, 0))
        self._slow_ns[number] = self._slow_ns.get(number, 0) - slow_ns
        return alone_ns + round(slow_ns * (self._host.wake_slowdown - 1.0))

    def _grant_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for wish in waiting:
            granted = self._granted(wish)
            if not granted:
                self._waiting.append(wish)
                continue
            self._used[wish.number] = granted
            faster = self._host.lent_speedup if granted > wish.own else 1.0
            slowdown = self._host.decode_slowdown if wish.may_borrow else self._host.prefill_slowdown
            self.run(wish.number, wish.alone_ns / faster, granted, self._step_ended(wish), wish.what, slowdown)

    def _granted(self, wish: _Wish) -> int:
        """Cores for a step now; 0: others have them."""
        now, total = self._queue.now, sum(self._owned.values())
        needy = {other.number for other in self._waiting}
        idle = 0
        if wish.may_borrow:
            idle = sum(
                own
                for number, own in self._owned.items()
                if number != wish.number
                and not self._used[number]
                and number not in needy
                and now - self._idle_since_ns[number] >= IDLE_NS
            )
        free = total - sum(used for number, used in self._used.items() if number != wish.number)
        return max(0, min(wish.own + idle, free))

    def _step_ended(self, wish: _Wish) -> Callable[[int], None]:
        def ended(what: int) -> None:
            self._used[wish.number], self._idle_since_ns[wish.number] = 0, self._queue.now
            wish.done(what)
            self._grant_waiting()

        return ended

    # --- processor sharing ---------------------------------------------------------------------------------------

    def run(
        self, number: int, alone_ns: float, threads: int, done: Callable[[int], None], what: int, slowdown: float = 1.0
    ) -> None:
        """Call `done(what)` when work that takes `alone_ns` on `threads` otherwise idle cores is done.

        Args:
            slowdown: of it while all other cores compute, too.
        """
        self._progress()
        self._jobs.append(_Job(number, float(alone_ns), threads, slowdown, done, what))
        self._plan()

    def _speeds(self) -> list[float]:
        """Of each job, as a share of that which it would have alone."""
        wanted = sum(job.threads for job in self._jobs)
        if len(self._jobs) < 2:
            return [min(1.0, self._cores / wanted)] if wanted else []
        busy = (min(wanted, self._cores) - 1) / max(1, self._cores - 1)
        # Threads of one step wait for each other, so it is as fast as the one whose core has the most to do.
        single, team = min(1.0, self._cores / wanted), 1.0 / -(-wanted // self._cores)
        return [(single if job.threads == 1 else team) / (1.0 + (job.slowdown - 1.0) * busy) for job in self._jobs]

    def _progress(self) -> None:
        passed, self._since_ns = self._queue.now - self._since_ns, self._queue.now
        for job, speed in zip(self._jobs, self._speeds(), strict=True):
            job.left_ns -= passed * speed

    def _plan(self) -> None:
        self._planned += 1
        if self._jobs:
            ends = ((job.left_ns / speed, job.number) for job, speed in zip(self._jobs, self._speeds(), strict=True))
            left_ns, number = min(ends)
            end_ns = self._queue.now + max(0, round(left_ns))
            self._queue.at(end_ns, self._ended, self._planned, number)

    def _ended(self, planned: int) -> None:
        if planned != self._planned:
            return
        self._progress()
        over = sorted((job for job in self._jobs if job.left_ns < 1.0), key=lambda job: job.number)
        self._jobs = [job for job in self._jobs if job.left_ns >= 1.0]
        self._plan()
        for job in over:
            job.done(job.what)


class Edge:
    """CPU of the front door and its clients: one event loop, on the cores that workers use, too.

    Args:
        cores: None: it computes elsewhere, in no time.
    """

    def __init__(self, cores: Cores | None, host: HostConfig) -> None:
        self._cores = cores
        self._request_ns, self._item_ns, self._token_ns = (
            0 if cores is None else round(ms * NS_PER_MS)
            for ms in (host.request_cpu_ms, host.item_cpu_ms, host.token_cpu_ms)
        )
        self._waiting: deque[tuple[int, Callable[[Any], None], object]] = deque()

    def request(self, then: Callable[[Any], None], what: object) -> None:
        """Call `then(what)` when a request has been read, checked and counted."""
        self._serve(self._request_ns, then, what)

    def outputs(self, outputs: Iterable[Output], then: Callable[[Any], None], what: object) -> None:
        """Call `then(what)` when tokens have been passed on and read."""
        tokens = 0
        if self._token_ns or self._item_ns:
            tokens = sum(len(each.token_ids) for output in outputs for each in by_request((output,)))
        self._serve(tokens * self._token_ns + self._item_ns if tokens else 0, then, what)

    def _serve(self, cpu_ns: int, then: Callable[[Any], None], what: object) -> None:
        if self._cores is None or (not cpu_ns and not self._waiting):
            then(what)
            return
        self._waiting.append((cpu_ns, then, what))
        if len(self._waiting) == 1:
            self._cores.run(EDGE, cpu_ns, 1, self._served, 0)

    def _served(self, _: int) -> None:
        assert self._cores is not None
        _, then, what = self._waiting.popleft()
        if self._waiting:
            self._cores.run(EDGE, self._waiting[0][0], 1, self._served, 0)
        then(what)
