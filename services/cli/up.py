"""`triptych up`: from a configuration to a serving cluster, and back to nothing."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias

from services.cli.output import EXIT_CANNOT_START, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Output, Steps
from services.cli.settings import state_folder
from services.cluster.config import ClusterConfig
from services.cluster.supervise import (
    ClusterRecord,
    check_memory,
    check_tp,
    claim_ports,
    end_processes,
    is_running,
    read_record,
    remove_record,
    usable_cores,
    write_record,
)
from services.cluster.topology import check_roles, check_threads
from services.core.clock import NS_PER_S, WallClock
from services.core.errors import StartupError
from services.engine.checkpoint import prepare_model, read_shape
from services.frontdoor.auth import Authenticator
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.tls import ServerTls

if TYPE_CHECKING:
    from services.cluster.app import RunningCluster

ReadConfig: TypeAlias = Callable[[], ClusterConfig]

POLL_S = 0.1
PROMPT = "What is the capital of France?"


class Stopping(Exception):
    """The user asked to stop while the cluster was starting."""


class Signals:
    """Ctrl-C and SIGTERM: the first asks for a drain, the second ends at once. SIGHUP asks for new front doors."""

    def __init__(self) -> None:
        self.news = threading.Event()
        self.replace = threading.Event()
        self.asked = threading.Event()
        self.again = threading.Event()

    def install(self) -> None:
        """Take both signals; Ray installs handlers of its own when it starts, so call this again after it."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        (self.again if self.asked.is_set() else self.asked).set()
        self.news.set()

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        self.replace.set()
        self.news.set()

    def check(self) -> None:
        """Raises Stopping once a stop was asked for."""
        if self.asked.is_set():
            raise Stopping


def up(config: ClusterConfig, cluster_id: str, read_config: ReadConfig, as_json: bool = False) -> int:
    """Start the cluster, stay until a signal, then end every process of it.

    Args:
        cluster_id: found in this process's environment too, which every process of the cluster inherits.
        read_config: reads the configuration again, for new front doors.
        as_json: say `ready` as JSON.

    Returns:
        Exit status; nothing of the cluster is left.
    """
    folder = state_folder(config)
    log_file = folder / "logs" / f"{config.cluster.name}.log"
    signals = Signals()
    signals.install()
    started = False
    with own_streams(log_file) as output:
        try:
            cluster = start(output, config, cluster_id, folder, signals)
            started = True
            announce(output, config, cluster_id if as_json else None)
            return serve_until_stopped(output, config, cluster, signals, read_config)
        except Stopping:
            output.note("stopped while starting")
            return EXIT_INTERRUPTED
        except StartupError as error:
            output.error(error.message)
            return EXIT_CANNOT_START
        finally:
            end_processes(cluster_id, grace_s=2.0 if started and not signals.again.is_set() else 0.0)
            record = read_record(folder, config.cluster.name)
            if record is not None and record.cluster_id == cluster_id:
                remove_record(folder, config.cluster.name)


@contextmanager
def own_streams(log_file: Path) -> Iterator[Output]:
    """An Output on the real stdout and stderr; what Ray and others print goes to a log file instead."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with log_file.open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    yield Output()


def start(output: Output, config: ClusterConfig, cluster_id: str, folder: Path, signals: Signals) -> RunningCluster:
    """Everything up to the first request that can be served."""
    name = config.cluster.name
    earlier = read_record(folder, name)
    if earlier is not None and is_running(earlier.pid, earlier.cluster_id):
        raise StartupError(
            f"cluster {name} runs already (pid {earlier.pid}, {earlier.grpc_address}); end it with `triptych down`, or "
            "start another one under another cluster.name, grpc_port and http_port"
        )
    check_roles(config)
    claim_ports(config.frontdoor)
    check_secrets(output, config.frontdoor)
    with output.progress() as steps:
        steps.begin("model")
        model_folder = prepare_model(config.model.path, folder / "models", steps.say)
        shape = read_shape(model_folder)
        check_tp(config, shape)
        check_memory(config, shape)
        if (crowded := check_threads(config, usable_cores())) is not None:
            output.note(crowded)
        steps.done(f"{config.model.served_name}, {config.model.dtype}, {shape.num_layers} layers")
        signals.check()
        steps.begin("Ray")
        # Imported here: these take over a second, and a wrong configuration should be told at once. What `deploy`
        # needs is imported while Ray starts its processes.
        loading = threading.Thread(target=importlib.import_module, args=("services.cluster.app",))
        from services.cluster.launch import start_ray

        loading.start()
        logs = start_ray(config)
        loading.join()
        from services.cluster.app import deploy

        signals.install()
        frontdoor = config.frontdoor
        write_record(
            folder,
            ClusterRecord(
                name=name,
                cluster_id=cluster_id,
                pid=os.getpid(),
                grpc_address=f"{frontdoor.host}:{frontdoor.grpc_port}",
                http_address=f"{frontdoor.host}:{frontdoor.http_port}",
                model=config.model.served_name,
                drain_s=config.controller.drain_s + frontdoor.drain_s,
                started_unix_ms=WallClock().unix_ms(),
                log_folder=str(logs),
            ),
        )
        steps.done(f"node started, logs in {logs}")
        signals.check()
        steps.begin("controller and front door")
        cluster = deploy(config, cluster_id, model_folder)
        steps.done(f"gRPC on {frontdoor.grpc_port}, HTTP on {frontdoor.http_port}")
        wait_for_workers(steps, config, cluster, signals)
    return cluster


def check_secrets(output: Output, config: FrontDoorConfig) -> None:
    """Read keys and certificate as the front door will.

    Raises:
        ConfigError: a file cannot be read or is wrong.
    """
    Authenticator(config.auth)
    if config.tls is not None:
        ServerTls(config.tls)
    elif config.auth.keys_file is not None and not config.host.startswith("127."):
        output.note(f"API keys will travel to {config.host} in plain text; set frontdoor.tls")


def wait_for_workers(steps: Steps, config: ClusterConfig, cluster: RunningCluster, signals: Signals) -> None:
    """Wait until every worker is live and the front door has heard of all of them."""
    clock = WallClock()
    end_ns = clock.now_ns() + int((config.controller.start_timeout_s + 5.0) * NS_PER_S)
    steps.begin("workers")
    while True:
        signals.check()
        status = cluster.status()
        live = [worker.worker_id for worker in status.workers if worker.state == "live"]
        steps.say(f"{len(live)} of {len(status.workers)} loaded", len(live) / len(status.workers))
        for worker in status.workers:
            if worker.failures and worker.last_error:
                raise StartupError(f"worker {worker.worker_id} could not start: {worker.last_error}")
        if status.ready and cluster.ready_workers() >= len(live):
            break
        if clock.now_ns() > end_ns:
            missing = [worker.worker_id for worker in status.workers if worker.worker_id not in live]
            raise StartupError(f"not ready within {config.controller.start_timeout_s:.0f} s: {', '.join(missing)}")
        signals.asked.wait(POLL_S)
    steps.done(", ".join(live))


def announce(output: Output, config: ClusterConfig, cluster_id: str | None) -> None:
    """The last lines on stdout: ready, the addresses, and requests to copy; one line of JSON with a cluster id."""
    grpc = f"{config.frontdoor.host}:{config.frontdoor.grpc_port}"
    scheme = "http" if config.frontdoor.tls is None else "https"
    http = f"{scheme}://{config.frontdoor.host}:{config.frontdoor.http_port}"
    if cluster_id is not None:
        output.json_line({"ready": True, "cluster_id": cluster_id, "pid": os.getpid(), "grpc": grpc, "http": http})
        return
    output.line("ready")
    output.line(f"gRPC  {grpc}")
    output.line(f"HTTP  {http}")
    output.line(f'try   triptych chat --server {grpc} "{PROMPT}"')
    message = f'{{"role": "user", "content": "{PROMPT}"}}'
    body = f'{{"model": "{config.model.served_name}", "messages": [{message}], "max_tokens": 32}}'
    output.line(f"or    curl {http}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'")
    output.out.file.flush()


def replace_front_doors(output: Output, config: ClusterConfig, cluster: RunningCluster, read: ReadConfig) -> None:
    """A rolling update: new front doors with the configuration of now; a wrong one is told and changes nothing."""
    try:
        fresh = read()
        same_ports = {name: getattr(config.frontdoor, name) for name in ("host", "grpc_port", "http_port")}
        frontdoor = fresh.frontdoor.model_copy(update=same_ports)
        check_secrets(output, frontdoor)
        cluster.replace_front_doors(config.model_copy(update={"frontdoor": frontdoor, "router": fresh.router}))
    except StartupError as error:
        output.error(f"the front doors stay as they are: {error.message}")
    else:
        output.note("new front doors serve; the old ones end when their streams do")


def serve_until_stopped(
    output: Output, config: ClusterConfig, cluster: RunningCluster, signals: Signals, read: ReadConfig
) -> int:
    """Wait for a signal, then let requests finish; a second signal ends at once."""
    while not signals.asked.is_set():
        signals.news.wait()
        signals.news.clear()
        if signals.replace.is_set() and not signals.asked.is_set():
            signals.replace.clear()
            replace_front_doors(output, config, cluster, read)
    output.note(f"draining for at most {config.controller.drain_s:.0f} s; Ctrl-C again ends at once")
    failed: list[str] = []

    def drain() -> None:
        try:
            cluster.drain()
        except Exception as error:  # whatever it is, the processes are ended next
            failed.append(f"{type(error).__name__}: {error}")

    worker = threading.Thread(target=drain, daemon=True)
    worker.start()
    while worker.is_alive() and not signals.again.is_set():
        worker.join(POLL_S)
    if signals.again.is_set():
        return EXIT_INTERRUPTED
    if failed:
        output.error(f"the drain failed ({failed[0]}); everything is ended now")
        return EXIT_FAILED
    return EXIT_OK
