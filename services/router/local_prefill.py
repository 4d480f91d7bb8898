"""When a prompt is computed where it will be decoded, because its hand-off would cost more than it saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.core.config import CostConfig
from services.core.cost import prefill_ms, transfer_ms
from services.core.registry import Registry
from services.router.view import WorkerView


@dataclass(frozen=True, slots=True)
class LocalQuestion:
    """The choice between two workers and one.

    Attributes:
        num_tokens: tokens to compute.
        prefill: worker that would compute them, or None when there is none.
        decode: worker that decodes; it hosts the prefill stage too.
        max_tokens: longest prompt that may be computed there to save time.
    """

    num_tokens: int
    prefill: WorkerView | None
    decode: WorkerView
    cost: CostConfig
    max_tokens: int


LocalPrefill = Callable[[LocalQuestion], str | None]
"""Returns the reason to compute the prompt on the decode worker, or None to hand it off."""
LOCAL_PREFILL: Registry[LocalPrefill] = Registry("local prefill policy", "router.local_prefill")


@LOCAL_PREFILL.register("never")
def never(_question: LocalQuestion) -> str | None:
    """Prompts are computed by prefill workers alone."""
    return None


@LOCAL_PREFILL.register("fallback")
def fallback(question: LocalQuestion) -> str | None:
    """Only where no prefill worker can take the prompt: slower decodes are better than none."""
    return "no_prefill_worker" if question.prefill is None else None


@LOCAL_PREFILL.register("cheaper")
def cheaper(question: LocalQuestion) -> str | None:
    """Where the hand-off costs this request more than a prompt beside them costs the decodes.

    Hand-off: the queue of the prefill worker and the transfer. Local: the queue of the decode worker, and every
    running decode is late by the time of the prompt. The prompt's own time is the same on both sides.
    """
    if question.prefill is None or question.num_tokens > question.max_tokens:
        return fallback(question)
    cost, decodes = question.cost, question.decode.report.running_decodes + question.decode.reserved_decodes
    handoff = prefill_ms(cost, queued(question.prefill)) + transfer_ms(cost, question.num_tokens)
    local = prefill_ms(cost, queued(question.decode)) + decodes * prefill_ms(cost, question.num_tokens)
    return "cheaper" if local < handoff else None


def queued(worker: WorkerView) -> int:
    """Prompt tokens that a worker computes before a new one."""
    return worker.report.queued_prefill_tokens + worker.reserved_prompt_tokens
