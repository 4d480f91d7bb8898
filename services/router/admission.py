"""Whether a request is taken now, later, or not at all: degrade first, reject with a reason and a time last.

    sheddable (priority < 0) and no placement keeps its objectives         rejected
    the wait at the workers is above `hold_ms`                             waits at the front door, in fair order
    predicted TTFT, its wait here included, above `reject_above` times its objective, or the predicted time of a token
    at the moment at which its prompt is computed (Mooncake's early rejection)                       rejected
    else                                                                   placed

What else could keep the objective (another pool, a prefill on the decode worker) is among the placements already.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from services.core.registry import Registry
from services.router.decision import Decision

LEAST_RETRY_MS, MOST_RETRY_MS = 50.0, 60_000.0


@dataclass(frozen=True, slots=True)
class Gate:
    """What is looked at.

    Attributes:
        decision: the best placement.
        waits_ms: predicted wait at the front door before it could be dispatched.
        ttft_ms, tpot_ms: objectives, infinite where none are wished.
        priority: of the request.
        reject_above: multiple of an objective above which a request is not taken.
    """

    decision: Decision
    waits_ms: float
    ttft_ms: float
    tpot_ms: float
    priority: int
    reject_above: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not taken, and when it may be worth asking again."""

    reason: str
    message: str
    retry_after_ms: int


Admission = Callable[[Gate], Refusal | None]
ADMISSION: Registry[Admission] = Registry("admission policy", "router.admission.policy")


@ADMISSION.register("none")
def everyone(_gate: Gate) -> Refusal | None:
    """Everything is taken."""
    return None


@ADMISSION.register("predicted")
def predicted_load(gate: Gate) -> Refusal | None:
    """By what is predicted for the moment at which the prompt is computed and decoding begins."""
    return _judge(gate, gate.decision.itl_then_ms)


@ADMISSION.register("instant")
def instant_load(gate: Gate) -> Refusal | None:
    """By the decodes that run now: it forgets prompts under way and so swings between too many and too few."""
    return _judge(gate, gate.decision.itl_now_ms)


def _judge(gate: Gate, itl_ms: float) -> Refusal | None:
    """An objective that even idle workers would miss is no reason to refuse: sending again would not help."""
    decision, ttft_ms = gate.decision, gate.decision.ttft_ms + gate.waits_ms
    most = 1.0 if gate.priority < 0 else gate.reject_above
    if ttft_ms > most * gate.ttft_ms >= decision.ttft_ms - decision.wait_ms:
        late = ttft_ms - gate.ttft_ms
        return _refusal("TTFT", "time to the first token", ttft_ms, gate.ttft_ms, late, gate.priority)
    if itl_ms > most * gate.tpot_ms >= decision.idle_itl_ms:
        # The rows that are too many leave at the rate at which outputs end.
        late = decision.life_ms * (1 - gate.tpot_ms / itl_ms)
        return _refusal("TPOT", "time of a token", itl_ms, gate.tpot_ms, late, gate.priority)
    return None


def _refusal(what: str, words: str, predicted: float, wished: float, wait_ms: float, priority: int) -> Refusal:
    retry_ms = math.ceil(min(max(wait_ms, LEAST_RETRY_MS), MOST_RETRY_MS))
    reason = f"SHED_{what}" if priority < 0 else f"PREDICTED_{what}"
    message = f"the {words} would be {predicted:.0f} ms where {wished:.0f} ms are wished; send again in {retry_ms} ms"
    return Refusal(reason, message, retry_ms)
