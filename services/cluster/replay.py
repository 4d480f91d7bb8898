"""Replays decision logs: builds the machine that a log's header names and feeds it the log's events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.controller.recorded import reconciler_from_header
from services.core.decision_log import Replayed, replay
from services.core.ports import Machine
from services.router.recorded import flow_from_header
from services.worker.assemble import core_from_header


def build_machine(kind: str, built_from: Any) -> Machine:
    """The state machine of a log header.

    Raises:
        ValueError: a kind that this version does not record.
    """
    builders: dict[str, Any] = {
        "worker": core_from_header,
        "flow": flow_from_header,
        "controller": reconciler_from_header,
    }
    if kind not in builders:
        raise ValueError(f"unknown machine {kind!r} in a decision log; known: {', '.join(builders)}")
    machine: Machine = builders[kind](built_from)
    return machine


def replay_file(path: Path) -> Replayed:
    """Replay one log file."""
    with path.open(encoding="utf-8") as lines:
        return replay(lines, build_machine)
