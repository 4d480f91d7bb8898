"""What the scheduler tells the stages of their requests."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.batch import TokenLogprob
from services.scheduling.waiting import RequestState

Sampled = tuple[RequestState, int, TokenLogprob | None]
"""A request, the token that a step sampled for it, and that token's log-probability where it was asked for.

A plain tuple: a step makes one for each of its requests, and a dataclass takes twenty times as long.
"""


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
