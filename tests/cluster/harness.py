"""A real cluster in processes of its own: started by `triptych up`, spoken to over gRPC, hurt through Ray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import yaml

from services.cluster.supervise import SESSIONS_FOLDER, marked_processes
from services.core.wire import actor_name
from services.pb import inference_pb2, inference_pb2_grpc

TRIPTYCH = str(Path(sys.executable).with_name("triptych"))
START_TIMEOUT_S = 240.0
SERVED = ("status", "top", "trace", "chat", "drain", "scale")
"""Commands that speak to a running cluster."""


def free_port() -> int:
    """A port that nothing holds at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Poll until the condition holds; a liveness bound, not a timing."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


@dataclass
class Generation:
    """What one Generate call gave."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish: int = 0
    timeline: list[tuple[str, str, int]] = field(default_factory=list)
    at_ms: dict[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error: grpc.StatusCode | None = None
    details: str = ""


class Cluster:
    """One `triptych up`.

    Args:
        folder: where its files go.
        config: YAML data; ports, name and state folder are filled in.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.grpc_port, self.http_port = free_port(), free_port()
        self.name = f"t{self.grpc_port}"
        self.state_folder = folder / "state"
        frontdoor = {"grpc_port": self.grpc_port, "http_port": self.http_port, **config.pop("frontdoor", {})}
        data = {"cluster": {"name": self.name}, "state_folder": str(self.state_folder), "frontdoor": frontdoor}
        self.config_file = folder / "cluster.yaml"
        self.config_file.write_text(yaml.safe_dump({**data, **config}), encoding="utf-8")
        self.log = folder / "up.log"
        self.up: subprocess.Popen[str] | None = None
        self._channel: grpc.Channel | None = None
        self._armer: subprocess.Popen[str] | None = None
        self.cluster_id = self.ray_address = ""

    # --- life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run `triptych up` until it says `ready`; one that does not is told with everything it wrote."""
        with self.log.open("w", encoding="utf-8") as log:
            self.up = subprocess.Popen(
                [TRIPTYCH, "up", "--config", str(self.config_file)],
                stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                env={**os.environ, "PYTHONFAULTHANDLER": "1"},
            )  # fmt: skip
        assert self.up.stdout is not None
        lines = iter(self.up.stdout)
        ready: list[bool] = []
        reader = threading.Thread(target=lambda: ready.append(any(line.strip() == "ready" for line in lines)))
        reader.start()
        reader.join(START_TIMEOUT_S)
        if ready == [True]:
            self._read_record()
            return
        happened = f"ended with {self.up.poll()}" if ready else f"was not ready within {START_TIMEOUT_S:.0f} s"
        if self.up.poll() is None:
            self.up.send_signal(signal.SIGABRT)  # Python's fault handler writes where each thread stands
            self.up.wait()
        reader.join()
        raise AssertionError(f"triptych up {happened}:\n{self._everything_written()}")

    def _everything_written(self) -> str:
        """The ends of what `up` and all that it started have written."""
        files = [self.log, *self.state_folder.glob("logs/*")]
        newest = max(SESSIONS_FOLDER.glob("session_2*"), key=lambda folder: folder.stat().st_mtime, default=None)
        if newest is not None:
            files += [*newest.glob("logs/*.err"), *newest.glob("logs/serve/*"), *newest.glob("logs/gcs_server.out")]
        parts = [(file, file.read_text(errors="replace")[-3000:]) for file in files if file.is_file()]
        return "\n".join(f"--- {file}\n{text}" for file, text in parts if text.strip())

    def stop(self) -> None:
        """`triptych down`; afterwards nothing of the cluster is left."""
        if self._channel is not None:
            self._channel.close()
        if self._armer is not None:
            assert self._armer.stdin is not None
            assert self._armer.stdout is not None
            self._armer.kill()
            self._armer.wait()
            self._armer.stdin.close()
            self._armer.stdout.close()
        down = self.cli("down")
        assert down.returncode == 0, down.stderr
        if self.up is not None:
            self.up.wait(timeout=30)
            assert self.up.stdout is not None
            self.up.stdout.close()
        assert self.processes() == []

    def processes(self) -> list[psutil.Process]:
        """Every process that carries this cluster's mark."""
        return [process for process, cluster_id, _ in marked_processes() if cluster_id == self.cluster_id]

    def _read_record(self) -> None:
        record = json.loads((self.state_folder / "clusters" / f"{self.name}.json").read_text())
        self.cluster_id = str(record["cluster_id"])
        session = Path(record["log_folder"]).parent
        (port_file,) = session.glob("gcs_server_port_*")
        self.ray_address = f"127.0.0.2:{port_file.read_text().strip()}"

    def cli(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run another `triptych` command against this cluster."""
        options = ["--config", str(self.config_file)] if arguments[0] in ("down", "doctor") else []
        options += ["--server", f"127.0.0.1:{self.grpc_port}"] if arguments[0] in SERVED else []
        return subprocess.run(
            [TRIPTYCH, *arguments, *options], capture_output=True, text=True, timeout=timeout_s, check=False
        )

    # --- what users do ----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """`triptych status --json`."""
        done = self.cli("status", "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def workers(self) -> dict[str, dict[str, Any]]:
        """Worker rows by id, over gRPC (quicker than the CLI)."""
        from google.protobuf.json_format import MessageToDict

        from services.pb import cluster_pb2, cluster_pb2_grpc

        stub = cluster_pb2_grpc.ClusterServiceStub(self.channel)
        status = stub.GetStatus(cluster_pb2.GetStatusRequest(), timeout=10)
        rows = MessageToDict(status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        return {row["id"]: row for row in rows["workers"]}

    @property
    def channel(self) -> grpc.Channel:
        """One channel for all calls of a test."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        return self._channel

    def stream(self, content: str | list[int], timeout_s: float = 120.0, **sampling: Any) -> Any:
        """A running Generate call: chat for text, a raw prompt for ids."""
        request = inference_pb2.GenerateRequest(
            sampling=inference_pb2.Sampling(**{"max_tokens": 24, **sampling}), include_timeline=True
        )
        if isinstance(content, str):
            part = inference_pb2.ContentPart(text=content)
            request.messages.append(inference_pb2.Message(role="user", content=[part]))
        else:
            request.prompt_token_ids.extend(content)
        stub = inference_pb2_grpc.InferenceServiceStub(self.channel)
        return stub.Generate(request, timeout=timeout_s, wait_for_ready=True)

    def generate(self, content: str | list[int], timeout_s: float = 120.0, **sampling: Any) -> Generation:
        """One whole generation; an error of the call is part of the result."""
        return collect(self.stream(content, timeout_s, **sampling))

    def wait_idle(self, timeout_s: float = 15.0) -> None:
        """Blocks, leases, transfers and tasks of every live worker are zero."""
        names = ("kv_blocks_used", "leases", "transfers", "tasks")

        def idle() -> bool:
            rows = self.workers().values()
            return bool(rows) and all(int(row[name]) == 0 for row in rows for name in names)

        wait_for(idle, timeout_s, f"everything released: {self.workers()}")

    def wait_serving(self, timeout_s: float = 90.0) -> None:
        """Prefill and decode report again, and a request completes."""
        wait_for(lambda: {r["pool"] for r in self.workers().values()} >= {"prefill", "decode"}, timeout_s, "two pools")
        wait_for(lambda: self.generate([1, 2, 3], max_tokens=3).error is None, timeout_s, "a request completes")

    # --- what goes wrong --------------------------------------------------------------------------------------

    def arm(self, worker_id: str, fault: str) -> None:
        """Set a fault in a live worker."""
        answer = self.tell(worker_id, fault)
        assert answer == "ok", answer

    def tell(self, worker_id: str, word: str) -> str:
        """Set a fault or ask for a `report` (see arm.py); the answer, or why the worker could not be told."""
        if self._armer is None:
            self._armer = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("arm.py")), self.ray_address],
                # `up` starts a node that asks for this user's token.
                env={**os.environ, "RAY_AUTH_MODE": "token"},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._armer.stdin is not None
        assert self._armer.stdout is not None
        self._armer.stdin.write(f"{actor_name(self.cluster_id, worker_id)} {word}\n")
        self._armer.stdin.flush()
        return self._armer.stdout.readline().strip()

    def kill_up(self) -> None:
        """kill -9 of `triptych up`."""
        assert self.up is not None
        os.kill(self.up.pid, signal.SIGKILL)
        self.up.wait()

    def find(self, words: str) -> list[psutil.Process]:
        """Processes of the cluster whose title contains `words`."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found


def collect(call: Any) -> Generation:
    """Read a Generate call to its end."""
    got = Generation()
    try:
        for message in call:
            kind = message.WhichOneof("event")
            if kind == "started":
                got.prompt_tokens = message.started.prompt_tokens
            elif kind == "delta":
                assert message.delta.token_index == len(got.token_ids), "every index once, in order"
                got.text += message.delta.text
                got.token_ids += message.delta.token_ids
            elif kind == "finished":
                got.finish = message.finished.finish_reason
                got.timeline = [(each.name, each.worker, each.pid) for each in message.finished.timeline]
                got.at_ms = {each.name: each.offset_us / 1000 for each in message.finished.timeline}
            elif kind == "usage":
                got.cached_tokens = message.usage.cached_tokens
    except grpc.RpcError as error:
        got.error, got.details = error.code(), error.details()
    return got


@contextmanager
def running(folder: Path, config: dict[str, Any]) -> Iterator[Cluster]:
    """A started cluster, stopped at the end whatever happened."""
    cluster = Cluster(folder, config)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
