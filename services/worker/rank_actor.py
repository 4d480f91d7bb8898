"""The Ray actor of a tensor-parallel worker's ranks but the first, wrapped in cluster/launch.py."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from services.telemetry.logs import configure as configure_logs
from services.worker.config import WorkerSpec
from services.worker.host import on_this_host


class RankActor:
    """One rank's process. It answers rank 0 alone, and ends with it.

    Args:
        spec: `WorkerSpec` of the worker as plain data.
        rank: from 1.
    """

    def __init__(self, spec: dict[str, Any], rank: int) -> None:
        self._spec = on_this_host(WorkerSpec.model_validate(spec))
        self._rank = rank

    async def follow(self, store_address: str) -> None:
        """Join rank 0's store and load; returns when this rank is ready to compute."""
        configure_logs(self._spec.telemetry, self._spec.pool, f"{self._spec.worker_id}/{self._rank}")
        process = await asyncio.to_thread(importlib.import_module, "services.worker.rank_process")
        await asyncio.to_thread(process.serve_rank, self._spec, self._rank, store_address)
