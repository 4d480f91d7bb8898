"""Where metrics and traces are served, and how logs are written."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.core.config import Strict


class TracesConfig(Strict):
    """One trace a request, with a span for each of its stages; `triptych trace` shows the last ones."""

    keep: int = Field(512, ge=0, le=100_000, description="Traces that each front door keeps, the newest; 0: none.")
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="OpenTelemetry collector that gets all traces (OTLP over HTTP), `http://host:4318`; null: none.",
    )
    sample_share: float = Field(
        1.0, ge=0, le=1, description="Share of the traces that is sent, of those whose client did not decide."
    )


class TelemetryConfig(Strict):
    """A scrape target of every process (front doors show theirs on the HTTP port as well), traces, everybody's logs."""

    metrics_ports: tuple[int, int] | None = Field(
        (0, 0), description="Port range for /metrics of every process; [0, 0]: any free port, null: none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["human", "json"] = Field("human", description="Log lines for people, or JSON Lines.")
    traces: TracesConfig = TracesConfig()
