"""Which clusters run on this machine, which processes belong to one, and how all of them are ended.

Every process of a cluster inherits `TRIPTYCH_CLUSTER_ID` from `triptych up`, so a scan of process environments finds
Ray's own processes, workers and front doors alike, also after `up` itself was killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.cluster.config import ClusterConfig
from services.cluster.topology import CLUSTER_VARIABLE, WORKER_VARIABLE, ledger_path, pools, wanted_path
from services.core.clock import WallClock
from services.core.errors import MemoryShortError, PortBusyError
from services.engine.model_shape import ModelShape
from services.engine.shard import check_ranks, shard_of
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.holder import port_holder

PROCESS_BYTES = 300 * 2**20
"""One worker process beside weights and pool: Python, torch, Ray, a step's activations."""
BASE_BYTES = 1200 * 2**20
"""Ray's own processes, Serve, the controller and a front door."""
POLL_S = 0.1
SESSIONS_FOLDER = Path("/tmp") / f"triptych-{os.getuid()}"
"""Of Ray's logs and sockets; short and fixed, because paths of sockets must stay below 108 characters."""
KEPT_SESSIONS = 5
SETTLED_MS = 10 * 60 * 1000


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """What `up` leaves in `<state folder>/clusters/<name>.json` for the other commands.

    Attributes:
        pid: of `triptych up`.
        grpc_address, http_address: `host:port`.
        drain_s: how long `up` may wait for requests once it was asked to end.
        started_unix_ms: when `up` began.
        log_folder: Ray's logs of this cluster.
    """

    name: str
    cluster_id: str
    pid: int
    grpc_address: str
    http_address: str
    model: str
    drain_s: float
    started_unix_ms: int
    log_folder: str


def record_path(state_folder: Path, name: str) -> Path:
    """Where the record of the cluster `name` is kept."""
    return state_folder / "clusters" / f"{name}.json"


def write_record(state_folder: Path, record: ClusterRecord) -> None:
    """Write the record at once or not at all."""
    path = record_path(state_folder, record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def read_record(state_folder: Path, name: str) -> ClusterRecord | None:
    """The record of the cluster `name`, or None; one that cannot be read counts as none."""
    try:
        return ClusterRecord(**json.loads(record_path(state_folder, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remove_record(state_folder: Path, name: str) -> None:
    """Forget the cluster `name`, and which cores its workers used."""
    record = read_record(state_folder, name)
    if record is not None:
        ledger_path(state_folder, record.cluster_id).unlink(missing_ok=True)
        wanted_path(state_folder, record.cluster_id).unlink(missing_ok=True)
    record_path(state_folder, name).unlink(missing_ok=True)


Wanted = dict[str, tuple[str, ...]]
"""Worker ids by pool."""


def read_wanted(file: Path, configured: Wanted) -> Wanted:
    """The workers that an earlier controller of this cluster noted, unless the configuration asks for others since.

    Args:
        configured: the workers of the configuration.
    """
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
        if noted["configured"] == {pool: list(worker_ids) for pool, worker_ids in configured.items()}:
            return {pool: tuple(worker_ids) for pool, worker_ids in noted["wanted"].items()}
    except (OSError, ValueError, KeyError):
        pass  # nothing was scaled
    return configured


def write_wanted(file: Path, configured: Wanted, wanted: Wanted) -> None:
    """Note the workers of the configuration and those that are wanted now, at once or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"configured": configured, "wanted": wanted}), encoding="utf-8")
    part.replace(file)


# --- processes --------------------------------------------------------------------------------------------------


def marked_processes() -> Iterator[tuple[psutil.Process, str, str | None]]:
    """(process, cluster id, worker id or None) of every process of any cluster that this user may see."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if cluster_id := environment.get(CLUSTER_VARIABLE):
            yield process, cluster_id, environment.get(WORKER_VARIABLE)


def members(cluster_id: str) -> list[psutil.Process]:
    """Every process of one cluster: those that bear its mark, and their descendants."""
    found = {process.pid: process for process, owner, _ in marked_processes() if owner == cluster_id}
    for process in list(found.values()):
        with contextlib.suppress(psutil.Error):
            # A process that rewrites its title may overwrite its environment; its parent still has the mark.
            found.update((child.pid, child) for child in process.children(recursive=True))
    return [found[pid] for pid in sorted(found)]


def worker_processes(cluster_id: str, worker_id: str) -> list[psutil.Process]:
    """Processes of one worker on this host."""
    return [process for process, owner, name in marked_processes() if (owner, name) == (cluster_id, worker_id)]


def cluster_ids() -> list[str]:
    """Ids of all clusters with a process on this machine."""
    return sorted({cluster_id for _, cluster_id, _ in marked_processes()})


def is_running(pid: int, cluster_id: str) -> bool:
    """Whether `pid` is a live process of that cluster, and not another that got its number."""
    try:
        process = psutil.Process(pid)
        return process.environ().get(CLUSTER_VARIABLE) == cluster_id and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Memory of one process; PSS counts a shared page by its share.

    Attributes:
        pss_bytes: proportional set size; resident set size where the system has no PSS.
    """

    pid: int
    title: str
    pss_bytes: int


def memory_table(cluster_id: str) -> list[ProcessMemory]:
    """Every process of a cluster with its memory, the largest first; their sum is what the cluster costs."""
    rows = []
    for process in members(cluster_id):
        with contextlib.suppress(psutil.Error):
            memory = process.memory_full_info()
            title = " ".join(process.cmdline()).strip() or process.name()
            rows.append(ProcessMemory(process.pid, title[:80], getattr(memory, "pss", memory.rss)))
    return sorted(rows, key=lambda row: row.pss_bytes, reverse=True)


# --- ending -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EndReport:
    """How the processes of a cluster ended.

    Attributes:
        drained: `up` was there and ended the cluster itself.
        terminated: processes that ended when asked to.
        killed: processes that had to be killed.
        left: processes that are still there; 0 unless the system refuses.
    """

    drained: bool
    terminated: int
    killed: int
    left: int


def end_processes(cluster_id: str, grace_s: float) -> EndReport:
    """End every process of a cluster but the calling one: ask, wait `grace_s`, kill; 0 kills at once."""
    terminated = killed = 0
    for rounds in range(5):  # a parent that dies last may have started one more child
        processes = _others(cluster_id)
        if not processes:
            break
        grace = grace_s if rounds == 0 else 0.0
        if grace:
            _signal(processes, "terminate")
        gone, alive = psutil.wait_procs(processes, timeout=grace)
        terminated += len(gone)
        _signal(alive, "kill")
        killed += len(psutil.wait_procs(alive, timeout=5.0)[0])
    return EndReport(False, terminated, killed, len(_others(cluster_id)))


def end_cluster(record: ClusterRecord, now: bool) -> EndReport:
    """What `triptych down` does: let `up` drain and end everything, then end by force what is left.

    Args:
        now: do not drain.
    """
    drained = False
    if not now and is_running(record.pid, record.cluster_id):
        up = psutil.Process(record.pid)
        with contextlib.suppress(psutil.Error):
            up.terminate()
            drained = _wait_for_end(up, record.drain_s + 20.0)
    report = end_processes(record.cluster_id, grace_s=0.0 if now else 3.0)
    return dataclasses.replace(report, drained=drained)


def _wait_for_end(process: psutil.Process, timeout_s: float) -> bool:
    """Whether a process ends in time; one that its parent has not reaped yet has ended."""
    for _ in range(int(timeout_s / POLL_S)):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        _, alive = psutil.wait_procs([process], timeout=POLL_S)
        if not alive:
            return True
    return False


def _others(cluster_id: str) -> list[psutil.Process]:
    """Every process of a cluster but the calling one."""
    return [process for process in members(cluster_id) if process.pid != os.getpid()]


def _signal(processes: Sequence[psutil.Process], how: str) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            getattr(process, how)()


def prune_sessions(folder: Path) -> list[Path]:
    """Remove what earlier clusters left behind: all sessions but the newest, those in use, and those just made.

    Returns:
        The folders that were removed.
    """
    made = sorted(
        (path for path in folder.glob("session_*_*") if path.is_dir() and not path.is_symlink()), reverse=True
    )
    commands = "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    now_ms = WallClock().unix_ms()
    removed = []
    for session in made[KEPT_SESSIONS:]:  # their names begin with the time
        with contextlib.suppress(OSError):  # removed by another start since
            if session.name not in commands and now_ms - session.stat().st_mtime * 1000 > SETTLED_MS:
                shutil.rmtree(session)
                removed.append(session)
    return removed


# --- before anything starts -------------------------------------------------------------------------------------


def claim_ports(config: FrontDoorConfig) -> None:
    """Bind both ports without SO_REUSEPORT and let go again: nothing else may listen there.

    Raises:
        PortBusyError: with the holder's pid and command, and the option that chooses another port.
    """
    for option, port in (("--grpc-port", config.grpc_port), ("--http-port", config.http_port)):
        with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as probe:
            # Connections of a server that just ended (TIME_WAIT) do not hold a port; listeners do.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((config.host, port))
            except OSError as error:
                raise PortBusyError(
                    f"port {port} on {config.host} is taken by {port_holder(port)} ({error.strerror}); end it "
                    f"(`triptych down` if it is a cluster), or choose another port with {option}"
                ) from error


def usable_cores() -> int:
    """Cores of this host that the processes started here may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def weight_bytes(config: ClusterConfig, shape: ModelShape, ranks: int) -> int:
    """Memory of one worker's weights, the sum over its ranks."""
    shards = [shard_of(shape, rank, ranks).shape(shape) for rank in range(ranks)]
    return sum(shard.weight_bytes(config.model.dtype) for shard in shards)


def worker_bytes(config: ClusterConfig, shape: ModelShape, ranks: int) -> int:
    """Memory of one worker."""
    return weight_bytes(config, shape, ranks) + config.cache.memory_bytes + ranks * PROCESS_BYTES


def check_tp(config: ClusterConfig, shape: ModelShape) -> None:
    """Refuse more ranks than the model can be split into.

    Raises:
        ConfigError: names the pool.
    """
    for name, pool in pools(config).items():
        check_ranks(shape, pool.tp, f"pools.{name}.tp")


def check_room(config: ClusterConfig, shape: ModelShape, pool: str, more: int) -> str:
    """Why this host has no memory for that many more workers of a pool; "" when it has."""
    needed = more * worker_bytes(config, shape, pools(config)[pool].tp)
    available = psutil.virtual_memory().available
    if more <= 0 or needed <= available:
        return ""
    return f"{more} more workers need {needed >> 20} MB and {available >> 20} MB are free; ask for fewer"


def check_memory(config: ClusterConfig, shape: ModelShape) -> None:
    """Refuse what cannot fit: weights and KV pool of every worker, and what Ray and the front door take.

    Raises:
        MemoryShortError: with the sum, its parts, what is free, and what to change.
    """
    workers = sum(pool.replicas for pool in pools(config).values())
    sizes = [(pool.replicas, pool.tp) for pool in pools(config).values()]
    weights = max(weight_bytes(config, shape, ranks) for _, ranks in sizes)
    needed = sum(replicas * worker_bytes(config, shape, ranks) for replicas, ranks in sizes) + BASE_BYTES
    available = psutil.virtual_memory().available
    if needed > available:
        raise MemoryShortError(
            f"{workers} workers need {needed >> 20} MB: {weights >> 20} MB of weights, "
            f"{config.cache.memory_bytes >> 20} MB of KV pool and {PROCESS_BYTES >> 20} MB of process each, and "
            f"{BASE_BYTES >> 20} MB for Ray and the front door; {available >> 20} MB are free. Lower "
            "cache.memory_bytes or pools.*.replicas, or use a smaller model"
        )
