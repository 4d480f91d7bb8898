"""When the cluster is planned anew, and with what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from services.core.config import Strict


class ReplanConfig(Strict):
    """Watching for drift (DistServe, section 4.3), and what `triptych plan` is asked then."""

    mode: Literal["off", "propose", "apply"] = Field(
        "off", description="off; propose: `triptych status` shows it; apply: pools are scaled to it, too."
    )
    hardware: str | None = Field(None, description="pool.yaml of what may be used; needed unless off.")
    slo: str | None = Field(None, description="As `triptych plan --slo`: ttft=2s,tpot=100ms; needed unless off.")
    model: str | None = Field(None, description="Name or folder for the planner; null: the served model's folder.")
    objective: Literal["cost", "power", "goodput"] = Field("goodput", description="As `triptych plan --objective`.")
    window_s: float = Field(60.0, gt=0, description="Shortest window; traffic is compared window by window.")
    windows: int = Field(3, ge=1, description="Windows in a row that must differ.")
    ratio: float = Field(1.5, gt=1, description="A window differs when its rate or a mean length is so many times off.")
    calm_ratio: float = Field(1.2, gt=1, description="Windows in a row are counted anew once one is as near as that.")
    min_requests: int = Field(100, ge=1, description="Windows wait for so many requests, at most ten times as long.")
    cooldown_s: float = Field(300.0, ge=0, description="Shortest time between two plans.")
    timeout_s: float = Field(600.0, gt=0, description="A plan that takes longer is given up.")
    requests: int = Field(200, ge=20, description="Requests of each run of one worker in the plan.")

    @model_validator(mode="after")
    def _complete(self) -> ReplanConfig:
        if self.mode != "off" and not (self.hardware and self.slo):
            raise ValueError("mode is not off, so hardware and slo are needed; name a pool.yaml and bounds")
        if self.calm_ratio >= self.ratio:
            raise ValueError(f"calm_ratio is {self.calm_ratio:g}, ratio {self.ratio:g}; the first must be lower")
        return self
