"""`triptych status`: who works, on what, and how full the KV pools are."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from services.cli.client import get_status
from services.cli.output import EXIT_OK, Output
from services.pb import cluster_pb2


def status_data(response: cluster_pb2.GetStatusResponse) -> dict[str, Any]:
    """The answer as JSON data; numbers stay numbers, and incarnations become text because JSON readers round them."""
    return {
        "cluster_id": response.cluster_id,
        "version": response.version,
        "model": response.model,
        "front_door": response.front_door,
        "metrics_address": response.metrics_address,
        "proposal": response.proposal,
        "front_doors": [{"id": door.id, "metrics_address": door.metrics_address} for door in response.front_doors],
        "ready": response.ready,
        "running_requests": response.running_requests,
        "counters": dict(response.counters),
        "workers": [
            {
                field.name: _plain(field.name, getattr(worker, field.name))
                for field in cluster_pb2.WorkerStatus.DESCRIPTOR.fields
            }
            for worker in response.workers
        ],
    }


def _plain(name: str, value: Any) -> Any:
    """A field as JSON data."""
    if name == "counters":
        return dict(value)
    return str(value) if name == "incarnation" else value


def show_status(output: Output, server: str, as_json: bool) -> int:
    """Ask the cluster and print its answer.

    Raises:
        ServerError: it does not answer.
    """
    response = get_status(server)
    if as_json:
        output.json(status_data(response))
        return EXIT_OK
    output.line(headline(response))
    output.out.print(worker_table(response))
    if response.proposal:
        output.line(f"plan: {response.proposal}")
    return EXIT_OK


def headline(response: cluster_pb2.GetStatusResponse) -> str:
    """The cluster in one line."""
    state = "ready" if response.ready else "not ready"
    return f"{response.cluster_id}: {state}, {response.model}, {response.running_requests} running requests"


def worker_table(response: cluster_pb2.GetStatusResponse) -> Table:
    """One row a worker, within 80 columns; `--json` has everything."""
    table = Table("worker", "role", "pid", box=None, padding=(0, 1, 0, 0))
    for title in ("KV used", "of", "cached", "prompt tok", "decodes", "age ms"):
        table.add_column(title, justify="right")
    for column in table.columns:
        column.no_wrap = True
    for worker in response.workers:
        cells = [
            worker.kv_blocks_used,
            worker.kv_blocks_total,
            worker.kv_blocks_cached,
            worker.queued_prefill_tokens,
            worker.running_decodes,
            worker.report_age_ms,
        ]
        role = f"{worker.role}, drains" if worker.draining else worker.role
        table.add_row(worker.id, role, str(worker.pid), *map(str, cells))
    return table
