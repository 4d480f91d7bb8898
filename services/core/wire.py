"""What crosses process borders by actor call, and the names under which actors are found."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.core.request import WorkerRef

NAMESPACE = "triptych"
"""Ray namespace of every actor of ours."""


def actor_name(cluster_id: str, worker_id: str) -> str:
    """Name of a worker's detached actor."""
    return f"{cluster_id}/{worker_id}"


def rank_name(cluster_id: str, worker_id: str, rank: int) -> str:
    """Name of the detached actor of a worker's rank; rank 0 is the worker itself."""
    return f"{actor_name(cluster_id, worker_id)}/{rank}" if rank else actor_name(cluster_id, worker_id)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What the controller tells front doors and the CLI about one live worker."""

    worker: WorkerRef
    pool: str
    roles: tuple[str, ...]
    pid: int
    store_address: str


@dataclass(frozen=True, slots=True)
class MetricsTargets:
    """Where Prometheus finds the processes that are no workers.

    Attributes:
        controller: host:port of its /metrics, "" when it has none.
        front_doors: host:port of each front door's own /metrics, "" when it has none, by its id.
        proposal: of another plan for the traffic that comes now; "" while there is none.
    """

    controller: str = ""
    front_doors: dict[str, str] = field(default_factory=dict)
    proposal: str = ""


TrafficRow = tuple[int, int, int]
"""Of one request: when it came (Unix ms), prompt tokens, output tokens."""


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a worker takes connections of workers and front doors, and the secret that lets them in; never logged."""

    worker: WorkerRef
    address: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LinkProbe:
    """What one worker measured of the way to another one.

    Attributes:
        open_ms: time to make a link.
        latency_us: of a small message, one way.
        bytes_per_s: of a large one, acknowledgement included.
        error: why nothing could be measured, "" when it could.
    """

    open_ms: float = 0.0
    latency_us: float = 0.0
    bytes_per_s: float = 0.0
    error: str = ""
