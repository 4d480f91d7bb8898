"""Budgets, order and limits of the scheduler."""

from __future__ import annotations

from pydantic import Field

from services.core.config import Strict


class SchedulerConfig(Strict):
    """One step's limits (Sarathi-Serve's token budget)."""

    max_batch_tokens: int = Field(512, ge=1, description="Token budget of a step: decodes first, then prompts.")
    prefill_tile_tokens: int = Field(
        32, ge=1, description="Tokens of every step that decodes leave to prompts; long chunks end at multiples of it."
    )
    max_chunk_tokens: int | None = Field(
        None, ge=1, description="Most tokens of one prompt in a step, so that short prompts pass long ones; null: any."
    )
    max_sequences: int = Field(64, ge=1, description="Most requests that hold KV blocks at once.")
    order: str = Field(
        "fcfs", description="Order of prompts, by registered name: fcfs, priority, shortest_first or edf."
    )
    ageing_s: float = Field(
        10.0, gt=0, description="Waiting that outweighs one level of priority, or 1000 prompt tokens: nobody starves."
    )
    max_preemptions: int = Field(
        4, ge=1, description="A request that lost its blocks this often gets blocks for its whole length next."
    )
