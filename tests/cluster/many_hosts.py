"""A cluster of several Ray nodes on one machine, started by `serve deploy` from what the Helm chart renders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import yaml

from services.cluster.launch import OBJECT_STORE_BYTES
from services.cluster.supervise import SESSIONS_FOLDER, end_processes
from services.cluster.topology import cluster_environment
from services.engine.checkpoint import DEFAULT_MODEL
from services.worker.config import RAY_NODE
from tests.chart.charts import Render, merged, render
from tests.cluster.harness import Cluster, free_port

HEAD, FIRST, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
RAY, SERVE = (str(Path(sys.executable).with_name(name)) for name in ("ray", "serve"))


class ManyHosts(Cluster):
    """A cluster whose nodes and applications are started one by one, as KubeRay does.

    Args:
        folder: where its files go.
        model_folder: prepared model.
    """

    def __init__(self, folder: Path, model_folder: Path) -> None:
        super().__init__(folder, {})
        values: dict[str, Any] = {
            "fullnameOverride": self.name,
            "config": {"cache": {"memory_bytes": 96 * 2**20}, "model": {"name": DEFAULT_MODEL, "dtype": "float32"}},
            "ports": {"grpc": self.grpc_port, "http": self.http_port},
        }
        self.made: Render = render(values)
        # What differs on one machine: several hosts have one file system and all ports in common.
        here = {
            "state_folder": str(self.state_folder),
            "model": {"path": str(model_folder)},
            "frontdoor": {"host": RAY_NODE},
            "telemetry": {"metrics_ports": [0, 0]},
        }
        self.config_file.write_text(yaml.safe_dump(merged(self.made.config, here)), encoding="utf-8")
        self.cluster_id = self.name
        self.environment = {
            **os.environ,
            **cluster_environment(self.name),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        self.gcs_port, self.dashboard_port = free_port(), free_port()

    def run(self, *command: str, timeout_s: float = 300.0) -> str:
        """Run a command as a pod of the cluster would; returns its output."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def add_node(self, host: str, resources: str, *options: str) -> None:
        """Start a Ray node with the resources of a worker group."""
        self.run(
            *(RAY, "start", *options, f"--node-ip-address={host}", f"--resources={resources}", "--num-cpus=0"),
            *(f"--object-store-memory={OBJECT_STORE_BYTES}", f"--dashboard-agent-listen-port={free_port()}"),
        )

    def start(self) -> None:
        """The head, a node for a front door and both workers, one for a front door, and the applications."""
        head = ("--head", f"--port={self.gcs_port}", f"--dashboard-port={self.dashboard_port}")
        self.add_node(HEAD, "{}", *head, "--dashboard-host=127.0.0.1", f"--temp-dir={SESSIONS_FOLDER}")
        self.join(FIRST, '{"frontdoor": 1, "prefill": 1, "decode": 1}')
        self.join(SECOND, '{"frontdoor": 1}')
        serves = self.folder / "serve.yaml"
        serves.write_text(self.cluster_command("serve"), encoding="utf-8")
        self.run(SERVE, "deploy", "--address", f"http://127.0.0.1:{self.dashboard_port}", str(serves))

    def join(self, host: str, resources: str) -> None:
        """Start a node beside the head."""
        self.add_node(host, resources, f"--address={HEAD}:{self.gcs_port}")

    def leave(self, host: str, group: str) -> None:
        """What a pod of a worker group runs before it ends, with this machine's addresses."""
        (command,) = (
            each.main["lifecycle"]["preStop"]["exec"]["command"] for each in self.made.workers if each.name == group
        )
        options = [part for part in command[4:] if not part.startswith("--config=")]
        self.cluster_command("leave", *options, f"--address={HEAD}:{self.gcs_port}", f"--host={host}")

    def cluster_command(self, command: str, *options: str) -> str:
        """Run `python -m services.cluster`."""
        return self.run(sys.executable, "-m", "services.cluster", command, f"--config={self.config_file}", *options)

    def stop(self) -> None:
        """End every process of it."""
        if self._channel is not None:
            self._channel.close()
        assert end_processes(self.cluster_id, grace_s=0.0).left == 0

    @property
    def channel(self) -> grpc.Channel:
        """To the front door that is left alone."""
        if self._channel is None:
            self._channel = self.channel_to(SECOND)
        return self._channel

    def channel_to(self, host: str) -> grpc.Channel:
        """To the front door of a host."""
        return grpc.insecure_channel(f"{host}:{self.grpc_port}")

    def hosts(self) -> dict[str, str]:
        """Where each worker can be reached."""
        return {name: str(row["metrics_address"]).partition(":")[0] for name, row in self.workers().items()}
