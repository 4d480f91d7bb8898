"""How workers are watched."""

from __future__ import annotations

from pydantic import Field

from services.controller.replan.config import ReplanConfig
from services.core.config import Strict


class ControllerConfig(Strict):
    """Heartbeats, restarts and drain."""

    ping_every_s: float = Field(0.5, gt=0, description="How often each worker is asked whether it lives.")
    ping_timeout_s: float = Field(5.0, gt=0, description="A worker that does not answer this long is replaced.")
    start_timeout_s: float = Field(120.0, gt=0, description="A launched worker must be ready within this time.")
    restart_backoff_s: float = Field(1.0, gt=0, description="Wait before a worker's second restart in a row; doubles.")
    restart_backoff_max_s: float = Field(20.0, gt=0, description="Longest wait between restarts.")
    drain_s: float = Field(10.0, ge=0, description="How long a drain waits for requests.")
    replan: ReplanConfig = ReplanConfig()
