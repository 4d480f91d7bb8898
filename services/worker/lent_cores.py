"""A runner whose decode steps use idle workers' cores as well."""

from __future__ import annotations

from collections.abc import Callable

from services.core.batch import ScheduledBatch, StepOutput
from services.core.ports import Runner
from services.worker.core_ledger import CoreLedger


class LentCores:
    """The `Runner` port over another: asks the ledger for cores before every step and gives them back after it.

    Args:
        set_threads: torch's; called at step boundaries, on the step thread, when the number changes.
        lends: False: never more than the worker's own cores, because bits would depend on their number.
    """

    def __init__(
        self, runner: Runner, ledger: CoreLedger, threads: int, set_threads: Callable[[int], None], lends: bool = True
    ) -> None:
        self._runner = runner
        self._ledger = ledger
        self._threads = threads
        self._set_threads = set_threads
        self._lends = lends

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """Run the step with the cores there are. A step of single tokens is short enough to borrow for."""
        short = self._lends and all(len(row.token_ids) == 1 for row in batch.chunks)
        granted = self._ledger.begin(may_borrow=short)
        try:
            if granted != self._threads:
                self._set_threads(granted)
                self._threads = granted
            return self._runner.execute(batch)
        finally:
            self._ledger.end()
