"""What doctor's checks are given, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.findings import Finding
from services.cluster.config import ClusterConfig
from services.cluster.supervise import ClusterRecord


@dataclass(slots=True)
class Patient:
    """What is looked at.

    Attributes:
        folder: of state files and models.
        server: `host:port` of a running cluster, or None.
        record: of the cluster that runs on this machine, or None.
        model_folder: the prepared model, once its check has found it.
    """

    config: ClusterConfig
    folder: Path
    server: str | None
    record: ClusterRecord | None = None
    model_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check saw.

    Attributes:
        seen: in a few words, for people.
        measured: numbers, for `--json`.
    """

    seen: str
    findings: tuple[Finding, ...] = ()
    measured: Any = None

    @property
    def state(self) -> str:
        """`ok`, or the worst severity."""
        severities = {finding.problem.severity.value for finding in self.findings}
        return next((each for each in ("error", "warning") if each in severities), "ok")
