"""Budgets of the scheduler."""

from __future__ import annotations

from pydantic import Field

from services.core.config import Strict


class SchedulerConfig(Strict):
    """One step's limits (Sarathi-Serve's token budget)."""

    max_batch_tokens: int = Field(512, ge=1, description="Token budget of a step: decodes first, then prompts.")
    max_sequences: int = Field(64, ge=1, description="Most requests that hold KV blocks at once.")
    order: str = Field("fcfs", description="Order of waiting prompts, by registered name.")
