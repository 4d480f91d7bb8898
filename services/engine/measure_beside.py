"""How much slower a step is while another process computes on the cores beside it, for the cost models.

Cores that share caches, memory and often the very execution units do not give two processes twice the work of one.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from services.core.batch import ScheduledBatch
from services.core.errors import ModelError
from services.engine.measure import CONTEXT, ROUNDS, ROWS, decode_batch, median_ms, prefill_batch
from services.engine.model_runner import ModelRunner, load_runner

TOKENS = 256
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """What another process needs to load the same model: see `load_runner`."""

    folder: Path
    dtype: str
    memory_bytes: int
    block_size: int
    threads: int


def slowdowns(runner: ModelRunner, place: ModelPlace, told: Callable[[str], None]) -> tuple[float, float]:
    """Times of prompts and of decodes beside a busy process, as multiples of their times alone; at least 1.

    Prompts are measured beside decodes and decodes beside prompts, alone and beside in turn; the medians.

    Raises:
        ModelError: a step failed, or the other process ended.
    """
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    other = context.Process(target=_compute, args=(theirs, place), daemon=True)
    other.start()
    theirs.close()
    pairs = (
        ("prompts beside decodes", prefill_batch(runner, _tokens(runner), 0), "decode"),
        ("decodes beside prompts", decode_batch(runner, ROWS, CONTEXT), "prefill"),
    )
    found = []
    try:
        _hear(pipe)
        for what, batch, theirs_is in pairs:
            told(what)
            found.append(median(_ratio(runner, batch, pipe, theirs_is) for _ in range(ROUNDS)))
    finally:
        pipe.close()
        other.kill()
        other.join()
    prompts, decodes = found
    return max(1.0, prompts), max(1.0, decodes)


def _tokens(runner: ModelRunner) -> int:
    return min(TOKENS, runner.shape.max_position)


def _ratio(runner: ModelRunner, batch: ScheduledBatch, pipe: Connection, theirs: str) -> float:
    alone = median_ms(runner, batch, 2)
    pipe.send(theirs)
    _hear(pipe)  # it computes
    beside = median_ms(runner, batch, 2)
    pipe.send("stop")
    _hear(pipe)  # it stands still
    return beside / alone


def _hear(pipe: Connection) -> None:
    try:
        if pipe.poll(TIMEOUT_S):
            pipe.recv()
            return
    except (EOFError, OSError):
        pass
    raise ModelError("the other process of the profile ended or does not answer")


def _compute(pipe: Connection, place: ModelPlace) -> None:
    """The other process: computes what it is told to until it is told to stop; ends with its pipe."""
    runner = load_runner(place.folder, place.dtype, place.memory_bytes, place.block_size, place.threads)
    batches = {"prefill": prefill_batch(runner, _tokens(runner), 0), "decode": decode_batch(runner, ROWS, CONTEXT)}
    try:
        pipe.send("ready")
        while True:
            batch = batches[pipe.recv()]
            runner.execute(batch)
            pipe.send("begun")
            while not pipe.poll():
                runner.execute(batch)
            pipe.recv()
            pipe.send("stopped")
    except (EOFError, OSError):
        return
