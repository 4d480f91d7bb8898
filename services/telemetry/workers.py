"""What is shown of workers: samples from their reports, and from the controller's list of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from services.core.actions import WorkerReport
from services.telemetry import metrics
from services.telemetry.exporter import Sample


def worker_samples(report: WorkerReport) -> Iterator[Sample]:
    """Everything that one report says."""
    labels = worker_labels(report)
    free = report.kv_blocks_total - report.kv_blocks_used - report.kv_blocks_cached
    for state, blocks in (("used", report.kv_blocks_used), ("cached", report.kv_blocks_cached), ("free", free)):
        yield Sample(metrics.KV_BLOCKS, (*labels, state), blocks)
    usage = report.kv_blocks_used / report.kv_blocks_total if report.kv_blocks_total else 0.0
    for metric, value in (
        (metrics.KV_USAGE, usage),
        (metrics.DECODES, report.running_decodes),
        (metrics.QUEUED_TOKENS, report.queued_prefill_tokens),
        (metrics.CONTEXT_TOKENS, report.context_tokens),
        (metrics.OFFERS_WAITING, report.waiting_offers),
        (metrics.HELD, report.tasks),
        (metrics.LEASES, report.leases),
        (metrics.TRANSFERS, report.transfers),
        (metrics.LINKS, report.links),
        (metrics.THREADS, report.threads),
        (metrics.SOCKETS, report.sockets),
        (metrics.DRAINING, report.draining),
    ):
        yield Sample(metric, labels, float(value))
    counts = [(*split_label(label), count) for label, count in report.counters]
    yield Sample(metrics.PREEMPTIONS, labels, sum(count for kind, _, count in counts if kind == "preempted"))
    for kind, reason, count in counts:
        yield Sample(metrics.WORKER_EVENTS, (*labels, kind, reason), count)


def worker_labels(report: WorkerReport) -> tuple[str, str]:
    """(worker, role)."""
    return report.source.worker_id, "+".join(report.roles)


def split_label(label: str) -> tuple[str, str]:
    """(kind, reason) of a counter's name, `kind/reason` or `kind` alone."""
    kind, _, reason = label.partition("/")
    return kind, reason


def pool_samples(workers: Iterable[tuple[str, str, str, int]]) -> Iterator[Sample]:
    """The controller's list of wanted workers: (worker id, pool, state, losses in a row) each."""
    rows = list(workers)
    for (pool, state), count in Counter((pool, state) for _, pool, state, _ in rows).items():
        yield Sample(metrics.WORKERS, (pool, state), count)
    for worker_id, _, _, failures in rows:
        yield Sample(metrics.WORKER_FAILURES, (worker_id,), failures)
