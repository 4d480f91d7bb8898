"""Doctor's checks of a running cluster: doors, workers, and the link of every pair."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import threading
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from services.cli import findings
from services.cli.checks import Outcome, Patient
from services.cli.client import ServerError, get_status, probe_links
from services.cli.findings import Finding
from services.pb import cluster_pb2
from services.telemetry.metrics import WORKERS

SILENT_MS = 2000
SETTLE_S = 3.0
HTTP_TIMEOUT_S = 3.0
SLOW_BYTES_PER_S = 100e6
SLOW_LATENCY_US = 20_000.0


def check_service(patient: Patient) -> Outcome:
    """gRPC and HTTP answer, in this version, with a worker for every stage."""
    assert patient.server is not None
    try:
        status = get_status(patient.server)
    except ServerError as error:
        return Outcome(patient.server, (Finding(findings.UNREACHABLE, f"{patient.server}: {error.message}"),))
    found, mine = [], importlib.metadata.version("triptych")
    if status.version != mine:
        found.append(Finding(findings.VERSION_SKEW, f"the cluster is {status.version}, this command is {mine}"))
    if not status.ready:
        roles = sorted({worker.role for worker in status.workers if not worker.draining})
        found.append(Finding(findings.NOT_READY, f"workers there: {', '.join(roles) or 'none'}"))
    if patient.record is not None and (problem := _http_problem(patient.record.http_address)):
        found.append(Finding(findings.HTTP_UNREACHABLE, f"{patient.record.http_address}: {problem}"))
    return Outcome(f"{status.cluster_id} at {patient.server}", tuple(found))


def _http_problem(address: str) -> str:
    """Why /livez does not answer, "" when it does."""
    try:
        status, _ = _get(address, "/livez")
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return "" if status == http.HTTPStatus.OK else f"/livez answers {status}"


def _get(address: str, path: str) -> tuple[int, str]:
    """(status, body); no proxy of the environment is asked."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=HTTP_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")


def check_workers(patient: Patient) -> Outcome:
    """Everybody reports, nobody is missing, nobody idle holds anything."""
    assert patient.server is not None
    try:
        status = get_status(patient.server)
    except ServerError as error:
        return Outcome(f"unknown: {error.message}")
    found = [
        Finding(findings.WORKER_SILENT, f"{worker.id} (pid {worker.pid}): last report {worker.report_age_ms} ms ago")
        for worker in status.workers
        if worker.report_age_ms > SILENT_MS
    ]
    found += _missing(status)
    if held := _held(status):
        threading.Event().wait(SETTLE_S)
        later = get_status(patient.server)
        found += [Finding(findings.BLOCKS_HELD, text) for text in _held(later) if text in held]
    roles = Counter(worker.role for worker in status.workers)
    return Outcome(", ".join(f"{count} {role}" for role, count in sorted(roles.items())) or "none", tuple(found))


def _missing(status: cluster_pb2.GetStatusResponse) -> list[Finding]:
    """Workers that the controller wants and has not, where its metrics can be read."""
    if not status.metrics_address:
        return []
    try:
        _, text = _get(status.metrics_address, "/metrics")
    except (OSError, http.client.HTTPException):
        return []
    families = [family for family in text_string_to_metric_families(text) if family.name == WORKERS.name]
    samples = [sample for family in families for sample in family.samples]
    return [
        Finding(
            findings.WORKER_MISSING,
            f"{sample.value:.0f} of pool {sample.labels['pool']} {sample.labels['state']}",
        )
        for sample in samples
        if sample.labels["state"] != "live" and sample.value
    ]


def _held(status: cluster_pb2.GetStatusResponse) -> list[str]:
    """What workers hold although this front door has no request; another one may have some."""
    if status.running_requests:
        return []
    return [
        f"{worker.id}: {worker.kv_blocks_used} blocks, {worker.leases} leases"
        for worker in status.workers
        if (worker.kv_blocks_used or worker.leases) and not worker.tasks
    ]


def check_links(patient: Patient) -> Outcome:
    """Latency and bandwidth of every pair that may hand over."""
    assert patient.server is not None
    try:
        probes = list(probe_links(patient.server))
    except ServerError as error:
        return Outcome("", (Finding(findings.LINK_BROKEN, error.message),))
    found, measured = [], []
    for probe in probes:
        pair = f"{probe.sender} -> {probe.receiver}"
        rate = f"{probe.bytes_per_s / 1e6:.0f} MB/s, {probe.latency_us / 1000:.2f} ms"
        measured.append(
            {
                "sender": probe.sender,
                "receiver": probe.receiver,
                "error": probe.error,
                "open_ms": round(probe.open_ms, 3),
                "latency_us": round(probe.latency_us, 1),
                "bytes_per_s": round(probe.bytes_per_s),
            }
        )
        if probe.error:
            found.append(Finding(findings.LINK_BROKEN, f"{pair}: {probe.error}"))
        elif probe.bytes_per_s < SLOW_BYTES_PER_S or probe.latency_us > SLOW_LATENCY_US:
            found.append(Finding(findings.LINK_SLOW, f"{pair}: {rate}"))
    good = [probe for probe in probes if not probe.error]
    seen = f"{len(probes)} pairs"
    if good:
        rates = [probe.bytes_per_s / 1e6 for probe in good]
        latencies = [probe.latency_us / 1000 for probe in good]
        seen += f", {min(rates):.0f} to {max(rates):.0f} MB/s, {min(latencies):.2f} to {max(latencies):.2f} ms one way"
    return Outcome(seen, tuple(found), measured)
