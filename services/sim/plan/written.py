"""A plan on paper: the YAML that `triptych up` takes, the document for programs, and what was not simulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from services.cluster.config import MAX_RANKS, MAX_REPLICAS, ClusterConfig
from services.core.config import parse
from services.sim.plan.goodput import Goodput
from services.sim.plan.instances import Group
from services.sim.plan.placement import Kind, Placement
from services.sim.plan.validate import Validation, cluster_config
from services.sim.plan.workload import Workload
from services.sim.speculation import Speculating

SCHEMA = "triptych.plan/1"


def why_not_startable(placement: Placement) -> str:
    """Why `triptych up` cannot start a copy of the placement; "" when it can."""
    if placement.kind not in (Kind.SPLIT, Kind.IN_A_HOST):
        apart = placement.kind is Kind.ENCODE_APART
        return f"its workers {'encode' if apart else 'host both phases'}, which launch pools cannot say"
    for pool in placement.pools:
        if pool.instance.stages > 1:
            return f"{pool.role} workers of {pool.instance.stages} pipeline stages cannot be started"
        if pool.replicas > MAX_REPLICAS or pool.instance.tp > MAX_RANKS:
            return f"{pool.replicas} {pool.role} workers of {pool.instance.tp} ranks are more than a pool may have"
    return ""


def cluster_document(placement: Placement, config: ClusterConfig, model: str) -> dict[str, Any]:
    """The configuration of one copy as plain data, with the keys that differ from the defaults; it was checked.

    Args:
        config: what the plan was made with.
        model: path or name of the model.
    """
    planned = cluster_config(placement, config)
    pools = {pool.role: {"replicas": pool.replicas, "tp": pool.instance.tp} for pool in placement.pools}
    memory = min(int(pool.instance.tokens * pool.instance.token_bytes) for pool in placement.pools)
    document = planned.model_dump(mode="json", exclude_defaults=True)
    document |= {
        "model": {**document.get("model", {}), "path": model},
        "pools": pools,
        "cache": {**document.get("cache", {}), "memory_bytes": memory},
    }
    parse(ClusterConfig, document)
    return document


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def placement_document(placement: Placement, on_front: bool) -> dict[str, Any]:
    """One row of the table."""
    return {
        "kind": placement.kind.value,
        "pools": [
            {
                "role": pool.role,
                "device": pool.instance.device,
                "tp": pool.instance.tp,
                "pp": pool.instance.stages,
                "replicas": pool.replicas,
                "goodput_rps_alone": pool.goodput.rate,
                "binding": pool.goodput.binding,
            }
            for pool in placement.pools
        ],
        "copies": placement.copies,
        "max_batch_tokens": placement.max_batch_tokens,
        "rate_rps": placement.rate,
        "goodput_per_device_rps": placement.per_device,
        "devices": placement.devices,
        "price_per_hour": placement.price,
        "watts": placement.watts,
        "joules_per_request": finite(placement.joules),
        "ttft_p99_ms": finite(placement.ttft_p99_ms),
        "tpot_p99_ms": finite(placement.tpot_p99_ms),
        "binding": placement.binding,
        "on_front": on_front,
    }


def goodput_document(found: Goodput) -> dict[str, Any]:
    """What one simulated worker takes."""
    unit = found.unit
    return {
        "phase": unit.phase.value,
        "device": unit.instance.device,
        "tp": unit.instance.tp,
        "pp": unit.instance.stages,
        "max_batch_tokens": unit.max_batch_tokens,
        "rate_rps": found.rate,
        "per_device_rps": found.per_device,
        "binding": found.binding,
        "probes": [list(probe) for probe in found.probes],
    }


def extrapolated(
    workload: Workload,
    groups: Sequence[Group],
    winner: Placement,
    runs: Sequence[Validation],
    skipped: int,
    hopeless: int,
) -> list[str]:
    """Everything that the numbers rest on without having been simulated."""
    last = runs[-1]
    lines = [
        f"Validated: {last.requests} requests at {last.rate:.3g}/s, {last.copies} of {winner.copies} equal clusters "
        f"with all their workers, the first quarter of the requests not judged. All other placements are computed from "
        "their workers, each simulated alone.",
        f"Lengths are those of {workload.sampled} of the trace's {workload.rows} requests, drawn evenly.",
        f"Arrivals are drawn at random (Poisson, dispersion 1); the trace's own dispersion in windows of ten seconds "
        f"is {workload.dispersion:.1f}, so its bursts ask for more.",
    ]
    datasheets = [group.name for group in groups if not group.measured]
    if datasheets:
        lines.append(f"Step times on {', '.join(datasheets)} follow from datasheets (roofline), not from measurements.")
    if workload.prefixed:
        lines.append(f"{workload.prefixed:.0%} of the requests share prefixes; none of them was taken from a cache.")
    if workload.images and workload.pictures is None:
        lines.append(f"{workload.images:.0%} of the requests have pictures; encoding them is not in the numbers.")
    if any(isinstance(pool.instance.cost, Speculating) for pool in winner.pools):
        lines.append(
            "Steps that speculate are simulated by the mean of their tokens, at the given acceptance rate; the YAML "
            "says nothing of it."
        )
    if any(pool.instance.stages > 1 for pool in winner.pools):
        lines.append("Pipeline stages are equal, without bubbles between groups of decodes.")
    lines.append(
        f"{skipped} workers were not simulated because their bound is below what was found, {hopeless} because they "
        "miss the objective even without load."
    )
    return lines
