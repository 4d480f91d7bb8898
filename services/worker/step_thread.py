"""The one thread of a worker that runs torch: a batch in, an answer out."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable

from services.core.batch import ScheduledBatch, StepOutput
from services.core.ports import Runner, RunnerLost

SWITCH_S = 0.0002
"""A step asks for the interpreter after each of its hundreds of operations; a message that is being read on the event
loop would keep it for 5 ms each time (Python's default)."""


class StepThread:
    """Runs batches in order.

    Args:
        runner: called from this thread alone.
        done: takes each answer; called on this thread, so it must be thread-safe.
        lost: the runner cannot go on; no batch is answered any more.
    """

    def __init__(self, runner: Runner, done: Callable[[StepOutput], None], lost: Callable[[str], None]) -> None:
        self._runner = runner
        self._done = done
        self._lost = lost
        self._batches: queue.SimpleQueue[ScheduledBatch | None] = queue.SimpleQueue()
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._run, name="step", daemon=True)
        self._thread.start()

    def submit(self, batch: ScheduledBatch) -> None:
        """Queue a batch."""
        self._batches.put(batch)

    def stop(self) -> None:
        """End after the batches that are queued."""
        self._batches.put(None)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                output = self._runner.execute(batch)
            except RunnerLost as error:
                self._lost(str(error))
                return
            except Exception as error:  # the requests of this batch fail; the worker goes on
                output = StepOutput(batch.step_id, (), error=f"{type(error).__name__}: {error}")
            self._done(output)
