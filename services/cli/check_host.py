"""Doctor's checks of this machine: versions, folders, limits, addresses, ports, memory, threads, keys."""

from __future__ import annotations

import importlib.metadata
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from services.cli import findings
from services.cli.checks import Outcome, Patient
from services.cli.findings import Finding
from services.cluster import supervise
from services.cluster.topology import check_threads as threads_warning
from services.cluster.topology import total_threads
from services.core.errors import ConfigError, MemoryShortError, PortBusyError
from services.engine.checkpoint import read_shape
from services.frontdoor.auth import read_keys, read_secret
from services.frontdoor.tls import ServerTls

SHOWN = ("torch", "ray", "grpcio", "protobuf")
MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 2 * 2**30
MIN_OPEN_FILES = 1024
MIN_SHARED_MEMORY_BYTES = 100 * 2**20
NODE_ADDRESS = "127.0.0.2"


def check_versions(patient: Patient) -> Outcome:
    """Python, and every library against what pyproject.toml asks for."""
    found = list(_wrong_versions())
    if sys.version_info < MIN_PYTHON:
        found.append(Finding(findings.PYTHON_OLD, f"this is Python {sys.version.split()[0]}"))
    shown = [f"Python {sys.version.split()[0]}", *(f"{name} {_version(name) or 'missing'}" for name in SHOWN)]
    return Outcome(", ".join(shown), tuple(found))


def _wrong_versions() -> Iterator[Finding]:
    for line in importlib.metadata.requires("triptych") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = _version(wanted.name)
        if version is None:
            yield Finding(findings.PACKAGE_MISSING, f"{wanted.name} is not installed")
        elif not wanted.specifier.contains(version, prereleases=True):
            yield Finding(findings.PACKAGE_VERSION, f"{wanted.name} is {version}, wanted is {wanted.specifier}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_folders(patient: Patient) -> Outcome:
    """The state folder can be written, and there is room in it and for Ray."""
    probe = patient.folder / ".doctor"
    try:
        patient.folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        return Outcome("", (Finding(findings.STATE_FOLDER, f"{patient.folder}: {error.strerror}"),))
    short = []
    for folder in (patient.folder, supervise.SESSIONS_FOLDER.parent):
        free = shutil.disk_usage(folder).free
        if free < MIN_FREE_BYTES:
            short.append(Finding(findings.DISK_FULL, f"{folder} has {free >> 20} MB left"))
    return Outcome(str(patient.folder), tuple(short))


def check_system(patient: Patient) -> Outcome:
    """Open files and shared memory."""
    found, (files, _) = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < MIN_OPEN_FILES:
        found.append(Finding(findings.FILES_LIMIT, f"{files} open files are allowed"))
    seen = [f"{'any number of' if files == resource.RLIM_INFINITY else files} open files"]
    if Path("/dev/shm").is_dir():
        total = shutil.disk_usage("/dev/shm").total
        seen.append(f"{total >> 20} MB shared memory")
        if total < MIN_SHARED_MEMORY_BYTES:
            found.append(Finding(findings.SHARED_MEMORY, f"/dev/shm has {total >> 20} MB"))
    return Outcome(", ".join(seen), tuple(found))


def check_addresses(patient: Patient) -> Outcome:
    """Ray's node and the workers can listen."""
    addresses = dict.fromkeys((NODE_ADDRESS, patient.config.worker.host, patient.config.frontdoor.host))
    found = [
        Finding(findings.LOOPBACK, f"{address}: {problem}") for address in addresses if (problem := _bind(address))
    ]
    return Outcome(", ".join(addresses), tuple(found))


def _bind(address: str) -> str:
    """Why nobody can listen on an address, "" when somebody can."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
            listener.bind((address, 0))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def check_leftovers(patient: Patient) -> Outcome:
    """Clusters whose `up` is gone while other processes of theirs live."""
    left: dict[str, list[psutil.Process]] = {}
    for process, cluster_id, _ in supervise.marked_processes():
        left.setdefault(cluster_id, []).append(process)
    orphaned = {name: processes for name, processes in left.items() if not any(map(_is_up, processes))}
    found = [
        Finding(findings.ORPHANS, f"{name}: {len(processes)} processes, as pid {processes[0].pid}")
        for name, processes in orphaned.items()
    ]
    running = len(left) - len(orphaned)
    return Outcome(f"{running} clusters run here" if running != 1 else "1 cluster runs here", tuple(found))


def _is_up(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
        return "services.cli" in words and "up" in words
    except psutil.Error:
        return False


def check_ports(patient: Patient) -> Outcome:
    """Both ports are free, unless this cluster holds them."""
    frontdoor = patient.config.frontdoor
    seen = f"gRPC {frontdoor.grpc_port}, HTTP {frontdoor.http_port}"
    if patient.record is not None:
        return Outcome(f"gRPC {patient.record.grpc_address}, HTTP {patient.record.http_address}, in use by the cluster")
    try:
        supervise.claim_ports(frontdoor)
    except PortBusyError as error:
        return Outcome(seen, (Finding(findings.PORT_BUSY, error.message),))
    return Outcome(f"{seen}, free")


def check_memory(patient: Patient) -> Outcome:
    """Weights and pools fit, where nothing runs yet."""
    free = f"{psutil.virtual_memory().available >> 20} MB free"
    if patient.record is not None or patient.model_folder is None:
        return Outcome(free)
    try:
        supervise.check_memory(patient.config, read_shape(patient.model_folder))
    except MemoryShortError as error:
        return Outcome(free, (Finding(findings.MEMORY_SHORT, error.message),))
    return Outcome(free)


def check_threads(patient: Patient) -> Outcome:
    """No more compute threads than cores."""
    cores = supervise.usable_cores()
    seen = f"{total_threads(patient.config)} compute threads on {cores} cores"
    try:
        warning = threads_warning(patient.config, cores)
    except ConfigError as error:
        return Outcome(seen, (Finding(findings.THREADS_MANY, error.message, f"{error.path}: {error.fix}."),))
    return Outcome(seen, () if warning is None else (Finding(findings.THREADS_CROWDED, warning),))


def check_certificate(patient: Patient) -> Outcome:
    """Certificate and key, where the doors use TLS."""
    tls = patient.config.frontdoor.tls
    if tls is None:
        return Outcome("not used: plain text")
    try:
        ServerTls(tls)
    except ConfigError as error:
        return Outcome("", (Finding(findings.CERTIFICATE_WRONG, error.message),))
    return Outcome(tls.cert_file)


def check_keys(patient: Patient) -> Outcome:
    """The files of API keys, where they are used."""
    auth = patient.config.frontdoor.auth
    if auth.keys_file is None or auth.secret_file is None:
        return Outcome("not used: everybody may do everything")
    try:
        keys = read_keys(Path(auth.keys_file))
        read_secret(Path(auth.secret_file))
    except ConfigError as error:
        return Outcome("", (Finding(findings.KEYS_WRONG, error.message),))
    return Outcome(f"{len(keys.keys)} keys")
