"""Where the processes of this host can be reached."""

from __future__ import annotations

from typing import Any

import ray

from services.worker.config import RAY_NODE, WorkerSpec


def address_here(host: str) -> str:
    """`worker.host` as an address of this host."""
    util: Any = ray.util
    return str(util.get_node_ip_address()) if host == RAY_NODE else host


def on_this_host(spec: WorkerSpec) -> WorkerSpec:
    """A worker's spec with the address of the host that it is started on."""
    host = address_here(spec.worker.host)
    return spec.model_copy(update={"worker": spec.worker.model_copy(update={"host": host})})
