"""Cores of a host that several workers share: every step gets its share of them (processor sharing)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.sim.event_queue import EventQueue


@dataclass(slots=True, eq=False)
class _Job:
    number: int
    left_ns: float
    threads: int
    done: Callable[[int], None]
    what: int


class Cores:
    """The cores of one host.

    A step on `threads` cores that takes t alone takes t / share when all steps together want more cores than there
    are; share = cores / wanted, the same for all.

    Attributes:
        cores: how many there are.
    """

    def __init__(self, queue: EventQueue, cores: int) -> None:
        self.cores = cores
        self._queue = queue
        self._jobs: list[_Job] = []
        self._since_ns = 0
        self._planned = 0

    def run(self, number: int, alone_ns: int, threads: int, done: Callable[[int], None], what: int) -> None:
        """Call `done(what)` when work that takes `alone_ns` with `threads` cores of its own is done.

        Args:
            number: of the worker; orders ends at the same time.
        """
        self._progress()
        self._jobs.append(_Job(number, float(alone_ns), threads, done, what))
        self._plan()

    @property
    def share(self) -> float:
        """Of its wanted speed that every job has now."""
        wanted = sum(job.threads for job in self._jobs)
        return min(1.0, self.cores / wanted) if wanted else 1.0

    def _progress(self) -> None:
        passed = (self._queue.now - self._since_ns) * self.share
        self._since_ns = self._queue.now
        for job in self._jobs:
            job.left_ns -= passed

    def _plan(self) -> None:
        self._planned += 1
        if self._jobs:
            first = min(self._jobs, key=lambda job: (job.left_ns, job.number))
            end_ns = self._queue.now + max(0, round(first.left_ns / self.share))
            self._queue.at(end_ns, self._ended, self._planned, first.number)

    def _ended(self, planned: int) -> None:
        if planned != self._planned:
            return
        self._progress()
        over = sorted((job for job in self._jobs if job.left_ns < 1.0), key=lambda job: job.number)
        self._jobs = [job for job in self._jobs if job.left_ns >= 1.0]
        self._plan()
        for job in over:
            job.done(job.what)
