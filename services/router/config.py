"""Which filters, scorer and picker place requests."""

from __future__ import annotations

from pydantic import Field

from services.core.config import CostConfig, Strict


class RouterConfig(Strict):
    """Placement: filter, score, pick, by registered names."""

    filters: tuple[str, ...] = Field(("alive", "has_role", "not_draining"), description="Hard filters, in order.")
    scorer: str = Field("least_work", description="Cost of a candidate; the lowest wins.")
    picker: str = Field("lowest", description="How one candidate is picked from the scored ones.")
    stale_report_s: float = Field(5.0, gt=0, description="A worker silent this long is not a candidate.")
    move_silent_s: float = Field(
        2.0, gt=0, description="Requests leave a worker that is silent this long, when another one can take them."
    )
    max_retries: int = Field(3, ge=0, description="Further attempts of a request before its first token.")
    max_continuations: int = Field(3, ge=0, description="Further attempts of a request after its first token.")
    wait_for_worker_s: float = Field(
        30.0, ge=0, description="How long a request that lost its worker waits for another one to be there."
    )
    early_grant_tokens: int = Field(
        512,
        ge=0,
        description="Prompts of at least this many tokens ask for an early grant (Splitwise); 0: never.",
    )
    local_prefill: str = Field(
        "never",
        description="When a decode worker computes the prompt itself, by registered name: never, fallback or cheaper.",
    )
    local_prefill_max_tokens: int = Field(
        128, ge=0, description="Longest prompt that a decode worker computes because that is cheaper."
    )
    cost: CostConfig = CostConfig()
