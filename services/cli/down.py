"""`triptych down`: ends a cluster from outside, also one whose `up` was killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from services.cli.output import EXIT_FAILED, EXIT_OK, Output
from services.cluster.supervise import (
    EndReport,
    cluster_ids,
    end_cluster,
    end_processes,
    read_record,
    remove_record,
)


def end_named(output: Output, folder: Path, name: str, now: bool, as_json: bool = False) -> int:
    """End the cluster that `up` recorded under `name`."""
    record = read_record(folder, name)
    if record is None and as_json:
        output.json({"clusters": [], "running_elsewhere": cluster_ids()})
        return EXIT_OK
    if record is None:
        output.line(f"no cluster {name} is recorded in {folder}")
        if others := cluster_ids():
            output.line(f"running without a record there: {', '.join(others)}; `triptych down --all` ends them")
        return EXIT_OK
    report = end_cluster(record, now)
    remove_record(folder, name)
    return _tell(output, {record.cluster_id: report}, as_json)


def end_all(output: Output, as_json: bool = False) -> int:
    """End every cluster of this user, recorded or not."""
    found = cluster_ids()
    if not found and not as_json:
        output.line("no cluster is running")
    return _tell(output, {cluster_id: end_processes(cluster_id, grace_s=3.0) for cluster_id in found}, as_json)


def _tell(output: Output, reports: Mapping[str, EndReport], as_json: bool) -> int:
    """How each cluster ended; the exit status."""
    if as_json:
        rows = [{"cluster_id": cluster_id, **asdict(report)} for cluster_id, report in reports.items()]
        output.json({"clusters": rows})
    for cluster_id, report in reports.items():
        if not as_json:
            output.line(f"{cluster_id}: {_how(report)}")
        if report.left:
            output.error(f"{report.left} processes of {cluster_id} could not be ended; they may belong to another user")
    return EXIT_FAILED if any(report.left for report in reports.values()) else EXIT_OK


def _how(report: EndReport) -> str:
    how = ["drained by its own `up`"] if report.drained else []
    if report.terminated:
        how.append(f"{report.terminated} processes ended")
    if report.killed:
        how.append(f"{report.killed} processes killed")
    return ", ".join(how) or "no process was left"
