"""Choices of the encode stage."""

from __future__ import annotations

from pydantic import Field

from services.core.config import Strict


class EncodeConfig(Strict):
    """How images share steps, and how much room their embeddings take."""

    max_batch_images: int = Field(2, ge=1, description="Images of one step (EPD's default).")
    max_batch_tokens: int = Field(8192, ge=1, description="Embedding tokens of one step; one larger image goes alone.")
    max_waiting_requests: int = Field(256, ge=1, description="Requests queued here before new ones are refused.")
    tokens_per_block: int = Field(
        256, ge=1, description="Embedding tokens in one block of the KV pool; KV of a token takes more room than it."
    )
