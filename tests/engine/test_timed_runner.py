"""Steps that only take time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from services.core.batch import Decodes, Row, SampleSpec, ScheduledBatch
from services.core.clock import NS_PER_MS
from services.engine.step_progress import StepProgress
from services.engine.timed_runner import FIRST_TOKEN, NUM_TOKENS, TimedRunner

GREEDY = SampleSpec(0.0, 0)


def test_every_sampled_row_gets_the_token_of_its_position_after_the_time_of_a_step() -> None:
    stand_in: Any = SimpleNamespace(progress=StepProgress(), shape=SimpleNamespace(vocab=49152))
    runner = TimedRunner(stand_in, step_ms=2.0)
    decodes = Decodes(("a", "b"), (5, 6), (30, 99), ((0, 1), (2,)), (GREEDY, GREEDY))
    chunks = (Row("c", (1, 2, 3), 0, (7,), None), Row("d", (1, 2, 3), 16, (8, 9), GREEDY))
    output = runner.execute(ScheduledBatch(4, chunks, decodes))
    expected = [FIRST_TOKEN + position % NUM_TOKENS for position in (31, 100, 19)]
    assert output.tokens == (expected[0], expected[1], None, expected[2])
    assert (output.step_id, output.error) == (4, None)
    assert output.duration_ns >= 2 * NS_PER_MS
    stand_in.progress.wait(4, 1, 0.1)  # a link that waits for this step goes on
