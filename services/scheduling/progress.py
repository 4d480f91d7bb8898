"""What the scheduler tells the stages of their requests, and the worker of its load."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.batch import TokenLogprob
from services.core.output import StepTokens
from services.scheduling.waiting import RequestState

Sampled = tuple[RequestState, int, TokenLogprob | None]
"""A request, the token that a step sampled for it, and that token's log-probability where it was asked for.

A plain tuple: a step makes one for each of its requests, and a dataclass takes twenty times as long.
"""

PlainTokens = tuple[str, str, StepTokens]
"""Stage and front door of requests, and their tokens of one step: more is not to be told of that step."""


@dataclass(frozen=True, slots=True)
class Stepping:
    """A step begins that will leave `num_computed` tokens of a pinned request computed."""

    state: RequestState
    num_computed: int
    step_id: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """A waiting request got blocks for all its known tokens."""

    state: RequestState


@dataclass(slots=True)
class Load:
    """What a worker reports of itself; the shell adds addresses and sequence numbers."""

    kv_blocks_total: int
    queued_prefill_tokens: int
    running_decodes: int
    leases: int
    transfers: int
    tasks: int
    waiting_offers: int
    back_pressure: str
    counters: tuple[tuple[str, int], ...]
    kv_blocks_used: int = 0
    kv_blocks_cached: int = 0
    context_tokens: int = 0
