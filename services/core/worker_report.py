"""What a worker says of itself; one of the events of `actions.py`."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.block_news import BlockNews
from services.core.quick import quick
from services.core.request import WorkerRef


@quick
@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says of itself (protocol section 5); folded into the `ClusterView`.

    Attributes:
        source: the worker; pid: of its operating-system process.
        pool: launch pool it was started for.
        roles: stages it hosts now.
        sequence: of this report.
        kv_blocks_used: blocks with a reference count above zero.
        kv_blocks_cached: unreferenced blocks that hold a findable prefix.
        queued_prefill_tokens: prompt tokens not yet computed.
        running_decodes: requests that get one token a step.
        context_tokens: tokens whose KV those requests hold.
        dispatch_sequence: dispatches of the addressed front door seen so far.
        others_dispatched: those of all other front doors.
        store_address: host:port of this worker's TCPStore.
        leases, transfers, tasks, threads, sockets: live counts, for leak checks; the last two of the process.
        stages: stages it hosts beside those of its roles too, for requests that are sent there on purpose.
        waiting_offers: hand-offs that wait for blocks here; back_pressure: why the oldest does, "" when none does.
        counters: how often something happened that nobody asked for, by `kind/reason`.
        links: KV links that are open.
        metrics_address: host:port of its /metrics; "" when it has none.
        blocks: news of its prefix cache for the addressed front door; None: there are none.
    """

    source: WorkerRef
    pid: int
    pool: str
    roles: tuple[str, ...]
    draining: bool
    sequence: int
    kv_blocks_total: int
    kv_blocks_used: int
    kv_blocks_cached: int
    queued_prefill_tokens: int
    running_decodes: int
    context_tokens: int
    dispatch_sequence: int
    store_address: str
    leases: int
    transfers: int
    tasks: int
    stages: tuple[str, ...] = ()
    waiting_offers: int = 0
    back_pressure: str = ""
    counters: tuple[tuple[str, int], ...] = ()
    links: int = 0
    threads: int = 0
    sockets: int = 0
    metrics_address: str = ""
    blocks: BlockNews | None = None
    others_dispatched: int = 0
