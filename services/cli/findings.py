"""Every fault that `triptych doctor` knows, what it means and what to do; docs/troubleshooting.md is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whether a cluster can work with it."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of fault.

    Attributes:
        code: stable name, in `doctor --json` too.
        means: what follows from it.
        fix: what to do, as a sentence; a finding may say it more precisely.
    """

    code: str
    severity: Severity
    title: str
    means: str
    fix: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault that is there.

    Attributes:
        detail: where, and what was found.
        fix: what to do about this very fault; "" where the problem's own fix says it.
    """

    problem: Problem
    detail: str
    fix: str = ""

    def data(self) -> dict[str, str]:
        """As JSON data."""
        return {
            "code": self.problem.code,
            "severity": self.problem.severity.value,
            "title": self.problem.title,
            "detail": self.detail,
            "fix": self.fix or self.problem.fix,
        }


def _error(code: str, title: str, means: str, fix: str) -> Problem:
    return Problem(code, Severity.ERROR, title, means, fix)


def _warning(code: str, title: str, means: str, fix: str) -> Problem:
    return Problem(code, Severity.WARNING, title, means, fix)


# --- this machine -----------------------------------------------------------------------------------------------

PYTHON_OLD = _error(
    "python_old",
    "Python is too old",
    "Triptych uses syntax and libraries of Python 3.11.",
    "Install Python 3.11 or newer, remove .venv, and run `make setup PYTHON=/path/to/python3.11`.",
)
PACKAGE_MISSING = _error(
    "package_missing",
    "A library is not installed",
    "Some part fails on its first import, often long after the start.",
    "Run `make setup`; it installs what constraints.txt pins.",
)
PACKAGE_VERSION = _error(
    "package_version",
    "A library has the wrong version",
    "Nothing was tested with it; torch, Ray and protobuf break their interfaces between versions.",
    "Run `make setup`, and look for folders on PYTHONPATH that hide the virtual environment.",
)
CONFIG_WRONG = _error(
    "config_wrong",
    "The configuration cannot be used",
    "`triptych up` refuses to start with it.",
    "Correct the key that is named; docs/configuration.md lists all of them.",
)
STATE_FOLDER = _error(
    "state_folder",
    "The state folder cannot be written",
    "Converted models and the records of running clusters have no place.",
    "Give the folder to your user, or name another one with `--set state_folder=DIR`.",
)
DISK_FULL = _warning(
    "disk_full",
    "Little room on a disk",
    "A model cannot be converted, and Ray stops when its disk is 95 % full.",
    "Free some room, or name a state folder on another disk with `--set state_folder=DIR`.",
)
PORT_BUSY = _error(
    "port_busy",
    "A port is taken",
    "The front door cannot listen.",
    "End the process that is named, or choose another port with --grpc-port or --http-port.",
)
LOOPBACK = _error(
    "loopback",
    "An address cannot be bound",
    "Ray's local node stands on 127.0.0.2, and workers listen on worker.host; both must be addresses of this machine.",
    "Set worker.host to a local address; on macOS add the alias: `sudo ifconfig lo0 alias 127.0.0.2`.",
)
MEMORY_SHORT = _error(
    "memory_short",
    "Not enough memory",
    "Weights and KV pools do not fit; the system would kill a worker in the middle of its work.",
    "Lower cache.memory_bytes or pools.*.replicas, or use a smaller model.",
)
THREADS_MANY = _error(
    "threads_many",
    "More compute threads than cores",
    "Threads that wait for each other's cores make every step several times slower.",
    "Lower pools.*.threads or pools.*.replicas.",
)
THREADS_CROWDED = _warning(
    "threads_crowded",
    "More workers than cores",
    "Workers slow each other down, and no cores are lent.",
    "Lower pools.*.replicas, or use a machine with more cores.",
)
FILES_LIMIT = _warning(
    "files_limit",
    "The limit on open files is low",
    "Each stream and each link is an open file; beyond the limit connections are refused.",
    "Raise it before the start: `ulimit -n 65536`.",
)
SHARED_MEMORY = _warning(
    "shared_memory",
    "Shared memory is small",
    "Ray puts its object store on a disk instead, which is slower to start.",
    "Give /dev/shm at least 128 MB; for a container: `--shm-size=256m`.",
)
ORPHANS = _error(
    "orphans",
    "Processes of a dead cluster are left",
    "Its `up` was killed; its workers still hold memory and ports.",
    "Run `triptych down --all`.",
)
KEYS_WRONG = _error(
    "keys_wrong",
    "The API keys cannot be read",
    "The front door refuses to start; one that runs keeps the keys it has.",
    "Make the files with `triptych keys add`, readable for the user that runs the cluster.",
)

CERTIFICATE_WRONG = _error(
    "certificate_wrong",
    "The certificate cannot be used",
    "The front door refuses to start; one that runs keeps the certificate it has.",
    "Give the certificate and its key, both in PEM, without a passphrase and of the same pair.",
)

# --- the model --------------------------------------------------------------------------------------------------

MODEL_FILES = _error(
    "model_files",
    "The model's files are missing or damaged",
    "No worker can load them.",
    "Fetch the model again: config.json, tokenizer.json and all *.safetensors files of one version.",
)
NOT_EXACT = _error(
    "not_exact",
    "float32 is not exact on this machine",
    "A request's logits depend on who shares its batch; answers may differ from run to run.",
    "Install the pinned torch with `make setup`, and report the processor, as `lscpu` shows it.",
)

# --- a running cluster ------------------------------------------------------------------------------------------

UNREACHABLE = _error(
    "unreachable",
    "The cluster does not answer over gRPC",
    "Clients cannot reach it either.",
    "Start one with `triptych up`, or name its address with --server; the log folder has the reason of a failure.",
)
HTTP_UNREACHABLE = _error(
    "http_unreachable",
    "The cluster does not answer over HTTP",
    "OpenAI clients, health checks and scrapers cannot reach it.",
    "Look at the front door's log; a proxy set in the environment must leave this address out (no_proxy).",
)
VERSION_SKEW = _warning(
    "version_skew",
    "The cluster runs another version",
    "Commands may not know what it answers.",
    "Use the `triptych` of that version, or restart the cluster with this one.",
)
NOT_READY = _error(
    "not_ready",
    "A stage has no worker",
    "Requests wait, then fail with UNAVAILABLE.",
    "Look at `triptych status`; the controller replaces lost workers, and its log says what they died of.",
)
WORKER_MISSING = _error(
    "worker_missing",
    "A wanted worker is not live",
    "Its share of the load falls on the others.",
    "Wait a minute for its restart; if it does not come, its log says what it died of.",
)
WORKER_SILENT = _error(
    "worker_silent",
    "A worker does not report",
    "It gets no requests, and those it has are moved.",
    "It hangs, is stopped, or has no processor: look at its process; `kill -9` makes the controller replace it.",
)
BLOCKS_HELD = _warning(
    "blocks_held",
    "An idle worker holds blocks or leases",
    "The KV pool gets smaller.",
    "Report it with the decision logs (record.folder); restart the worker with `triptych drain WORKER`.",
)
LINK_BROKEN = _error(
    "link_broken",
    "No link between two workers",
    "No KV cache can be handed over between them; requests are computed again elsewhere.",
    "Replace the receiver with `triptych drain WORKER`; between machines, open worker.store_ports in the firewall.",
)
LINK_SLOW = _warning(
    "link_slow",
    "A slow link between two workers",
    "Hand-offs delay second tokens: 512 tokens of the default model are 22 MB in float32.",
    "See what else uses the network or the processors; set worker.host to the address of a faster interface.",
)

PROBLEMS: tuple[Problem, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Problem))
"""All of them, in the order above."""
