"""Which filters, scorer and picker place requests."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.core.config import CostConfig, Strict


class ObjectivesConfig(Strict):
    """Latency objectives of requests that name none, and what placement makes of them."""

    ttft_ms: float | None = Field(None, gt=0, description="Wished time to the first token; null: none.")
    tpot_ms: float | None = Field(None, gt=0, description="Wished time of each token after it; null: none.")
    safety: float = Field(
        0.9, gt=0, le=1, description="A placement is feasible when it is predicted to take this share of an objective."
    )


class PlacementConfig(Strict):
    """How predicted times become a choice."""

    mode: Literal["spread", "pack"] = Field(
        "spread", description="Among feasible workers: the least loaded, or the most loaded, so that others drain."
    )
    prefill_work_weight: float = Field(
        1.0,
        ge=0,
        description="Worth of a ms of prefill that a prefix hit saves, beside the ms that it saves this client.",
    )
    harm_weight: float = Field(1.0, ge=0, description="Worth of a ms by which running requests become slower.")
    kv_reserve: float = Field(0.05, ge=0, lt=1, description="Share of a KV pool that predictions leave free.")
    index_blocks: int = Field(262_144, ge=1, description="Blocks whose place is remembered from what was sent there.")


class AdmissionConfig(Strict):
    """Which requests are taken, and who waits for whom."""

    policy: str = Field(
        "predicted", description="none, predicted (load when the prompt is computed) or instant (load now)."
    )
    reject_above: float = Field(
        1.5, gt=0, description="A request whose prediction is above this multiple of its objective is rejected."
    )
    hold_ms: float = Field(
        5000.0,
        gt=0,
        description="Requests wait at the front door, in fair order, while every worker has this much prefill queued.",
    )


class RouterConfig(Strict):
    """Placement: filter, score, pick, by registered names."""

    placement: Literal["predicted", "scored"] = Field(
        "predicted",
        description="predicted: pairs of workers by predicted times; scored: each stage by `scorer` and `picker`.",
    )
    objectives: ObjectivesConfig = ObjectivesConfig()
    predicted: PlacementConfig = PlacementConfig()
    admission: AdmissionConfig = AdmissionConfig()
    filters: tuple[str, ...] = Field(("alive", "has_role", "not_draining"), description="Hard filters, in order.")
    scorer: str = Field(
        "least_work", description="Cost of a candidate; the lowest wins: least_work, least_requests, round_robin."
    )
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
