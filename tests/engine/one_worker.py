"""One worker's core over a real runner, step by step: what its front door would be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.core.actions import Action, Emit, RunStep, StepDone, Submit
from services.core.output import by_request
from services.core.request import FinishReason, Request, WorkerRef
from services.engine.model_runner import ModelRunner
from tests.factories import make_core


@dataclass
class Told:
    """What came of one request."""

    tokens: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    finish: FinishReason | None = None
    reason: str = ""
    message: str = ""


@dataclass
class Served:
    """All requests, and how often one lost its blocks."""

    told: dict[str, Told]
    preemptions: int


def serve(runner: ModelRunner, requests: Sequence[Request], **config: Any) -> Served:
    """Run requests that come at once to their ends, in one process."""
    cache = {"block_size_tokens": runner.pool.block_size, "watermark": 0.0}
    core = make_core(WorkerRef("w", 1), ("prefill",), runner.pool.num_blocks, cache=cache, **config)
    told = {request.request_id: Told() for request in requests}
    actions: list[Action] = []
    for request in requests:
        actions += core.handle(0, Submit("door", request))
    while steps := [action for action in actions if isinstance(action, RunStep)]:
        (step,) = steps
        note(told, actions)
        core.check()
        actions = core.handle(0, StepDone("runner", runner.execute(step.batch)))
    note(told, actions)
    assert core.idle
    counters = dict(core.load().counters)
    return Served(told, sum(count for name, count in counters.items() if name.startswith("preempted")))


def note(told: dict[str, Told], actions: Sequence[Action]) -> None:
    """Write down what goes out."""
    for action in actions:
        for output in by_request(action.outputs) if isinstance(action, Emit) else ():
            found = told[output.request_id]
            found.tokens += output.token_ids
            found.digests += output.logits_digests
            found.finish, found.reason, found.message = output.finish, output.reason, output.message
