"""The Python of a decode step of 64 requests: state machine and input batch, with no torch kernel in it."""

from __future__ import annotations

import gc
import statistics
import time
from pathlib import Path

import pytest
import torch

from services.core.actions import RunStep, StepDone, Tick
from services.core.batch import ScheduledBatch, StepOutput
from services.core.request import WorkerRef
from services.engine.checkpoint import DEFAULT_MODEL, prepare_model, read_shape
from services.engine.input_batch import build
from services.engine.kv_pool import PagedKvPool
from services.scheduling.host import DECODE, WorkerCore
from services.scheduling.waiting import RequestState
from tests.factories import make_core, make_request

pytestmark = pytest.mark.bench
CACHE = Path(__file__).parents[2] / ".cache" / "models"
REQUESTS, PROMPT, STEPS, WARM_UP, BLOCK = 64, 256, 100, 20, 16
US = 1e6


def decoding_core() -> tuple[WorkerCore, ScheduledBatch]:
    """A decode worker whose 64 requests were all handed to it, and its first batch."""
    core = make_core(
        WorkerRef("decode-0", 1),
        (DECODE,),
        64 * 40,
        cache={"block_size_tokens": BLOCK},
        scheduler={"max_sequences": 64},
    )
    for index in range(REQUESTS):
        prompt = tuple((7 * index + position) % 40000 for position in range(PROMPT))
        request = make_request(f"request-{index}", prompt, max_tokens=1000, block_size=BLOCK)
        got = core._blocks.allocate(PROMPT, request.block_hashes, 0)
        assert got is not None
        state = RequestState(request, DECODE, [*prompt, 5], 0)
        state.num_computed, state.blocks = PROMPT, got.blocks
        core._scheduler.add_running(state)
    (batch,) = (action.batch for action in core.handle(1, Tick("bench")) if isinstance(action, RunStep))
    assert len(batch.rows) == REQUESTS
    return core, batch


def test_a_step_of_64_rows_takes_at_most_200_microseconds_of_python() -> None:
    torch.set_num_threads(1)
    shape = read_shape(prepare_model(DEFAULT_MODEL, CACHE))
    pool = PagedKvPool(shape.num_layers, 64 * 40, shape.kv_heads, BLOCK, shape.head_dim, torch.bfloat16)
    core, batch = decoding_core()
    built, handled, woken = [], [], []
    gc.disable()
    for step in range(STEPS):
        start = time.perf_counter()
        build(batch.rows, shape, pool, exact=False)
        between = time.perf_counter()
        answer = StepDone("runner", StepOutput(batch.step_id, tuple(step + 10 for _ in batch.rows)))
        actions = core.handle(step + 2, answer)
        after = time.perf_counter()
        core.next_wake()
        woken.append((time.perf_counter() - after) * US)
        built.append((between - start) * US)
        handled.append((after - between) * US)
        (batch,) = (action.batch for action in actions if isinstance(action, RunStep))
        assert len(batch.rows) == REQUESTS
    gc.enable()
    parts = [statistics.median(part[WARM_UP:]) for part in (handled, built, woken)]
    total = sum(parts)
    print(
        f"\n{REQUESTS} rows: handle, schedule and output processing {parts[0]:.0f} us, input batch {parts[1]:.0f} us, "
        f"next wake {parts[2]:.0f} us, together {total:.0f} us (medians of {STEPS - WARM_UP})"
    )
    assert total <= 200
