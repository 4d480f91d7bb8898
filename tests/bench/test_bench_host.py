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
from services.engine.decode_inputs import DecodeInputs
from services.engine.kv_pool import PagedKvPool
from services.scheduling.host import WorkerCore
from services.scheduling.stages import DECODE
from services.scheduling.waiting import RequestState
from tests.factories import make_core, make_request

pytestmark = pytest.mark.bench
CACHE = Path(__file__).parents[2] / ".cache" / "models"
REQUESTS, PROMPT, STEPS, WARM_UP, BLOCK = 64, 256, 400, 20, 16
US = 1e6


def decoding_core() -> tuple[WorkerCore, ScheduledBatch]:
    """A decode worker whose 64 requests were all handed to it, and its first batch."""
    core = make_core(
        WorkerRef("decode-0", 1),
        (DECODE,),
        64 * 48,
        cache={"block_size_tokens": BLOCK},
        scheduler={"max_sequences": 64},
    )
    for index in range(REQUESTS):
        # Lengths differ, so that in every step a few requests get a block, as they do when clients come one by one.
        prompt = tuple((7 * index + position) % 40000 for position in range(PROMPT + index))
        request = make_request(f"request-{index}", prompt, max_tokens=1000, block_size=BLOCK)
        got = core._blocks.allocate(len(prompt), request.block_hashes, 0)
        assert got is not None
        state = RequestState(request, DECODE, [*prompt, 5], 0)
        state.num_computed, state.blocks = len(prompt), got.blocks
        core._scheduler.add_running(state)
    (batch,) = (action.batch for action in core.handle(1, Tick("bench")) if isinstance(action, RunStep))
    assert len(batch.rows) == REQUESTS
    return core, batch


def test_a_step_of_64_rows_takes_at_most_200_microseconds_of_python() -> None:
    torch.set_num_threads(1)
    shape = read_shape(prepare_model(DEFAULT_MODEL, CACHE))
    pool = PagedKvPool(shape.num_layers, 64 * 48, shape.kv_heads, BLOCK, shape.head_dim, torch.bfloat16)
    core, batch = decoding_core()
    inputs = DecodeInputs(shape, pool, exact=False)
    built, handled, woken = [], [], []
    gc.disable()
    for step in range(STEPS):
        start = time.perf_counter()
        assert batch.decodes is not None and not batch.chunks
        inputs.next(batch.decodes)
        between = time.perf_counter()
        answer = StepDone("runner", StepOutput(batch.step_id, tuple(range(step + 10, step + 10 + REQUESTS))))
        actions = core.handle(step + 2, answer)
        after = time.perf_counter()
        core.next_wake()
        woken.append((time.perf_counter() - after) * US)
        built.append((between - start) * US)
        handled.append((after - between) * US)
        (batch,) = (action.batch for action in actions if isinstance(action, RunStep))
        assert batch.num_tokens == REQUESTS
    gc.enable()
    parts = [statistics.median(part[WARM_UP:]) for part in (handled, built, woken)]
    total = sum(parts)
    print(
        f"\n{REQUESTS} rows: handle, schedule and output processing {parts[0]:.0f} us, input batch {parts[1]:.0f} us, "
        f"next wake {parts[2]:.0f} us, together {total:.0f} us (medians of {STEPS - WARM_UP}; fastest steps "
        f"{sum(min(part) for part in (handled, built, woken)):.0f} us)"
    )
    assert total <= 200
