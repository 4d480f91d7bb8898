"""What a decision log needs to build a reconciler again, and the reconciler that it builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.controller.config import ControllerConfig
from services.controller.reconcile import Reconciler


def reconciler_header(desired: Mapping[str, Sequence[str]], config: ControllerConfig) -> dict[str, Any]:
    """What a log's header says of a reconciler."""
    return {
        "desired": {pool: list(worker_ids) for pool, worker_ids in desired.items()},
        "config": config.model_dump(mode="json"),
    }


def reconciler_from_header(header: dict[str, Any]) -> Reconciler:
    """The inverse of `reconciler_header`."""
    return Reconciler(header["desired"], ControllerConfig.model_validate(header["config"]))
