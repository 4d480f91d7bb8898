"""Where metrics are served, and how logs are written."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.core.config import Strict


class TelemetryConfig(Strict):
    """A scrape target of every process (front doors show theirs on the HTTP port as well), and everybody's logs."""

    metrics_ports: tuple[int, int] | None = Field(
        (0, 0), description="Port range for /metrics of every process; [0, 0]: any free port, null: none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["human", "json"] = Field("human", description="Log lines for people, or JSON Lines.")
