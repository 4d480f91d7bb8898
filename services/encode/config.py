"""Choices of the encode stage."""

from __future__ import annotations

from pydantic import Field

from services.core.config import Strict


class EncodeConfig(Strict):
    """How images share steps, and which embeddings stay."""

    max_batch_images: int = Field(2, ge=1, description="Images of one step (EPD's default).")
    max_batch_tokens: int = Field(8192, ge=1, description="Embedding tokens of one step; one larger image goes alone.")
    cache_tokens: int = Field(16384, ge=0, description="Embedding tokens that are kept for images that come again.")
