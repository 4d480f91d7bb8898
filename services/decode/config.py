"""Choices of the decode stage."""

from __future__ import annotations

from pydantic import Field

from services.core.config import Strict


class DecodeConfig(Strict):
    """When offered requests are accepted (DistServe's pull rule), and what else a decode worker does."""

    max_waiting_block_share: float = Field(
        0.05,
        gt=0.0,
        le=1.0,
        description="Grants stop while requests that wait for their first step hold this share of blocks.",
    )
    max_early_block_share: float = Field(
        0.5,
        gt=0.0,
        le=1.0,
        description="Early grants stop while prompts that are still computed elsewhere hold this share of blocks.",
    )
    host_prefill: bool = Field(
        True, description="Decode workers can compute prompts too, where router.local_prefill sends them some."
    )
