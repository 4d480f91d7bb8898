"""Reports of workers that are not there."""

from services.core.actions import WorkerReport
from services.core.request import WorkerRef


def report_of(worker: WorkerRef, sequence: int = 1, draining: bool = False) -> WorkerReport:
    """A report of a worker that hosts the stage of its name."""
    role = worker.worker_id.split("-")[0]
    return WorkerReport(
        source=worker,
        pid=worker.incarnation,
        pool=role,
        roles=(role,),
        draining=draining,
        sequence=sequence,
        kv_blocks_total=100,
        kv_blocks_used=3,
        kv_blocks_cached=2,
        queued_prefill_tokens=5,
        running_decodes=1,
        context_tokens=40,
        dispatch_sequence=0,
        store_address="127.0.0.1:1",
        waiting_offers=2,
        back_pressure="blocks",
        counters=(("preempted/no_blocks", 7),),
        leases=1,
        transfers=1,
        tasks=4,
    )
