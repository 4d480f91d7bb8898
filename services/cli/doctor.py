"""`triptych doctor`: looks for everything that keeps a cluster from starting or serving, and says what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.check_cluster import check_links, check_service, check_workers
from services.cli.check_engine import check_exactness, check_model
from services.cli.check_host import (
    check_addresses,
    check_certificate,
    check_folders,
    check_keys,
    check_leftovers,
    check_memory,
    check_ports,
    check_system,
    check_threads,
    check_versions,
)
from services.cli.checks import Outcome, Patient
from services.cli.findings import CONFIG_WRONG, Finding, Severity
from services.cli.output import EXIT_FAILED, EXIT_OK, Output
from services.cli.settings import load_config, state_folder
from services.cluster.config import ClusterConfig
from services.cluster.supervise import is_running, read_record
from services.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at.

    Attributes:
        local: concerns this machine; left out when --server names a cluster elsewhere.
        running: concerns a running cluster; left out where none is wanted.
        slow: takes seconds; left out by --quick.
    """

    name: str
    run: Callable[[Patient], Outcome]
    local: bool = True
    running: bool = False
    slow: bool = False


CHECKS: tuple[Check, ...] = (
    Check("versions", check_versions, local=False),
    Check("folders", check_folders),
    Check("system", check_system),
    Check("addresses", check_addresses),
    Check("leftovers", check_leftovers),
    Check("ports", check_ports),
    Check("model", check_model),
    Check("memory", check_memory),
    Check("threads", check_threads),
    Check("API keys", check_keys),
    Check("certificate", check_certificate),
    Check("service", check_service, local=False, running=True),
    Check("workers", check_workers, local=False, running=True),
    Check("links", check_links, local=False, running=True, slow=True),
    Check("exactness", check_exactness, slow=True),
)


def doctor(
    output: Output,
    config_file: Path | None,
    assignments: Sequence[str],
    server: str | None,
    quick: bool,
    as_json: bool,
) -> int:
    """Run every check that applies and print what was found.

    Args:
        server: look at the cluster there and not at this machine; None: at this machine and the cluster on it.

    Returns:
        0 when there is no error (warnings do not count), else 1.
    """
    results: list[tuple[str, Outcome]] = []
    try:
        config = load_config(config_file, assignments)
        results.append(("configuration", Outcome(str(config_file or "defaults"))))
    except ConfigError as error:
        config = ClusterConfig()
        results.append(("configuration", Outcome("", (Finding(CONFIG_WRONG, error.message, error.fix),))))
    patient = Patient(config, state_folder(config), server)
    record = read_record(patient.folder, config.cluster.name)
    if server is None and record is not None and is_running(record.pid, record.cluster_id):
        patient.record, patient.server = record, record.grpc_address
    for check in CHECKS:
        if (server is not None and check.local) or (check.running and patient.server is None) or (check.slow and quick):
            continue
        if not as_json:
            output.note(f"looking at {check.name} ...")
        results.append((check.name, run(check, patient)))
    findings = [finding for _, outcome in results for finding in outcome.findings]
    ok = not any(finding.problem.severity is Severity.ERROR for finding in findings)
    if as_json:
        output.json(report_data(results, ok))
    else:
        show(output, results)
    return EXIT_OK if ok else EXIT_FAILED


def run(check: Check, patient: Patient) -> Outcome:
    """One check; what it stumbles over is told, and the next ones go on."""
    try:
        return check.run(patient)
    except Exception as error:  # a check that cannot look must not hide what the others see
        return Outcome(f"could not be looked at: {type(error).__name__}: {error}")


def report_data(results: Sequence[tuple[str, Outcome]], ok: bool) -> dict[str, Any]:
    """Everything as JSON data."""
    return {
        "ok": ok,
        "checks": [{"name": name, "state": outcome.state, "seen": outcome.seen} for name, outcome in results],
        "findings": [{"check": name, **finding.data()} for name, outcome in results for finding in outcome.findings],
        "measured": {name: outcome.measured for name, outcome in results if outcome.measured},
    }


STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def show(output: Output, results: Sequence[tuple[str, Outcome]]) -> None:
    """One line a check, and below it each fault with its fix."""
    for name, outcome in results:
        output.styled(f"{outcome.state:<8}", STYLES[outcome.state], f"{name:<14}{outcome.seen}".rstrip())
        for finding in outcome.findings:
            output.line(f"        {finding.problem.title}: {finding.detail}")
            output.line(f"        fix: {finding.fix or finding.problem.fix}")
    count = sum(len(outcome.findings) for _, outcome in results)
    output.line("no fault found" if not count else f"{count} faults found" if count > 1 else "1 fault found")
