"""Choices of the prefill stage."""

from __future__ import annotations

from pydantic import Field

from services.core.config import Strict


class PrefillConfig(Strict):
    """When and how finished prompts are offered."""

    max_waiting_requests: int = Field(256, ge=1, description="Requests queued here before new ones are refused.")
    max_image_block_share: float = Field(
        0.2, gt=0, le=1, description="Share of the KV pool for embeddings of images; one request may have more."
    )
