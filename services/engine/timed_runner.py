"""A runner whose steps only take time: for tests of everything around the model, with thousands of tokens a second."""

from __future__ import annotations

import threading
from dataclasses import replace

from services.core.batch import ScheduledBatch, StepOutput
from services.core.clock import Clock, WallClock
from services.engine.model_runner import ModelRunner

FIRST_TOKEN, NUM_TOKENS = 1000, 20
"""Its outputs are these ids, in turn by position: whole words in common vocabularies."""


class TimedRunner:
    """The `Runner` port over another runner's pool and links: every step takes `step_ms` and computes nothing.

    Args:
        runner: whose progress links wait for; its model is never run.
        step_ms: how long each step takes, milliseconds.
    """

    def __init__(self, runner: ModelRunner, step_ms: float, clock: Clock | None = None) -> None:
        self._runner = runner
        self._step_ms = step_ms
        self._clock = clock or WallClock()
        self._never = threading.Event()

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """Wait, then answer each sampled row with a token that its position alone decides."""
        begun = self._clock.now_ns()
        self._runner.progress.begin(batch.step_id)
        self._never.wait(self._step_ms / 1000)
        self._runner.progress.end(ok=True)
        decodes = [] if batch.decodes is None else [start + 1 for start in batch.decodes.starts]
        ends = [*decodes, *(None if row.sample is None else row.end for row in batch.chunks)]
        tokens = tuple(None if end is None else self._token(end) for end in ends)
        output = StepOutput(batch.step_id, tokens)
        return replace(output, duration_ns=self._clock.now_ns() - begun)

    def _token(self, position: int) -> int:
        return (FIRST_TOKEN + position % NUM_TOKENS) % self._runner.shape.vocab
