"""Sizes and lease times of the KV cache and its hand-off."""

from __future__ import annotations

from pydantic import Field

from services.core.config import Strict


class CacheConfig(Strict):
    """The KV pool of one worker."""

    block_size_tokens: int = Field(16, ge=1, le=256, description="Tokens in one KV block.")
    memory_bytes: int = Field(256 * 2**20, ge=2**20, description="Memory of the KV pool of one worker.")
    watermark: float = Field(
        0.01, ge=0.0, lt=1.0, description="Share of blocks kept free for running decodes when a prompt is admitted."
    )
    prefix_caching: bool = Field(True, description="Keep and reuse the blocks of finished prompts.")


class TransferConfig(Strict):
    """Leases and retries of the KV hand-off (protocol section 4)."""

    lease_ttl_s: float = Field(5.0, gt=0, description="A lease that is not renewed this long expires.")
    renew_every_s: float = Field(1.0, gt=0, description="How often live leases are renewed.")
    send_timeout_s: float = Field(4.0, gt=0, description="Bound of one part's transfer, from its turn on the link.")
    step_timeout_s: float = Field(
        60.0, gt=0, description="Further bound of a part that is sent while the step that computes it runs."
    )
    drain_timeout_s: float = Field(
        1.5, gt=0, description="A link that still moves parts of a transfer this long after its end is given up."
    )
    quarantine_after: int = Field(
        2, ge=1, le=100, description="Wrong checksums in a row on one link after which it is closed and built anew."
    )
    max_attempts: int = Field(2, ge=1, le=10, description="Attempts of one hand-off, the first included.")
