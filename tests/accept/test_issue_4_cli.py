"""Issue 4: `triptych doctor` finds each of ten planted faults by name and says what to do, on real clusters and files.

The real command runs as a process for every one of them; a sound cluster must give no error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli.findings import PROBLEMS
from services.cluster.topology import CLUSTER_VARIABLE
from services.engine.tiny import save_tiny
from tests.cluster.harness import TRIPTYCH, Cluster, free_port, running, wait_for

pytestmark = [pytest.mark.accept, pytest.mark.cluster]


def tiny_config(folder: Path) -> dict[str, Any]:
    """A cluster of a random tiny model, with test hooks."""
    save_tiny(folder / "model")
    return {
        "model": {"path": str(folder / "model"), "name": "tiny", "dtype": "float32"},
        "cache": {"memory_bytes": 2**24},
        "testing": {"enabled": True},
    }


def diagnosed(folder: Path, config: dict[str, Any], *options: str, before: str = "", **env: str) -> dict[str, str]:
    """Fix by code of everything that doctor finds for a configuration where nothing runs.

    Args:
        before: shell commands that doctor's process starts with.
    """
    frontdoor = {"grpc_port": free_port(), "http_port": free_port(), **config.pop("frontdoor", {})}
    data = {"cluster": {"name": "sick"}, "state_folder": str(folder / "state"), "frontdoor": frontdoor, **config}
    file = folder / "sick.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    script = f'{before} exec "$@"'
    command = ["bash", "-c", script, "doctor", TRIPTYCH, "doctor", "--quick", "--json", "--config", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **env})
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    return {finding["code"]: f"{finding['detail']} {finding['fix']}" for finding in report["findings"]}


@pytest.fixture
def ill(tmp_path: Path) -> dict[str, Any]:
    """A sound configuration, for a test to spoil."""
    return tiny_config(tmp_path)


def test_a_sound_configuration_has_no_fault(tmp_path: Path, ill: dict[str, Any]) -> None:
    assert set(diagnosed(tmp_path, ill)) <= {"orphans"}, "of other clusters on this machine"


def test_a_busy_port(tmp_path: Path, ill: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        found = diagnosed(tmp_path, ill | {"frontdoor": {"http_port": holder.getsockname()[1]}})
    assert f"pid {os.getpid()}" in found["port_busy"]
    assert "--http-port" in found["port_busy"]


def test_damaged_weights(tmp_path: Path, ill: dict[str, Any]) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    found = diagnosed(tmp_path, ill)
    assert "model.safetensors" in found["model_files"]
    assert "etch" in found["model_files"]


def test_too_little_memory(tmp_path: Path, ill: dict[str, Any]) -> None:
    found = diagnosed(tmp_path, ill | {"cache": {"memory_bytes": 2**43}})
    assert "cache.memory_bytes" in found["memory_short"]


def test_more_threads_than_cores(tmp_path: Path, ill: dict[str, Any]) -> None:
    found = diagnosed(tmp_path, ill | {"pools": {"decode": {"threads": 4096}}})
    assert "pools.decode.threads" in found["threads_many"]


def test_a_library_of_another_version(tmp_path: Path, ill: dict[str, Any]) -> None:
    info = tmp_path / "old" / "torch-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    path = os.pathsep.join([str(info.parent), os.environ.get("PYTHONPATH", "")])
    found = diagnosed(tmp_path, ill, PYTHONPATH=path)
    assert "torch is 1.0" in found["package_version"]
    assert "make setup" in found["package_version"]


def test_a_state_folder_that_cannot_be_made(tmp_path: Path, ill: dict[str, Any]) -> None:
    (tmp_path / "state").write_text("a file stands where the folder should be")
    assert "state_folder=DIR" in diagnosed(tmp_path, ill)["state_folder"]


def test_few_open_files(tmp_path: Path, ill: dict[str, Any]) -> None:
    assert "ulimit -n" in diagnosed(tmp_path, ill, before="ulimit -n 200;")["files_limit"]


def test_unreadable_keys_and_an_unknown_key(tmp_path: Path, ill: dict[str, Any]) -> None:
    (tmp_path / "keys.yaml").write_text("keys: [")
    (tmp_path / "secret").write_text("x" * 40)
    auth = {"keys_file": str(tmp_path / "keys.yaml"), "secret_file": str(tmp_path / "secret")}
    assert "triptych keys" in diagnosed(tmp_path, ill | {"frontdoor": {"auth": auth}})["keys_wrong"]
    found = diagnosed(tmp_path, ill | {"frontdoor": {}}, "--set", "pools.decode.replica=2")
    assert "replicas" in found["config_wrong"]


def test_a_certificate_that_is_none(tmp_path: Path, ill: dict[str, Any]) -> None:
    (tmp_path / "cert.pem").write_text("not a certificate")
    tls = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "cert.pem")}
    found = diagnosed(tmp_path, ill | {"frontdoor": {"tls": tls}})
    assert "cert.pem" in found["certificate_wrong"]


def test_an_address_of_another_machine(tmp_path: Path, ill: dict[str, Any]) -> None:
    assert "192.0.2.7" in diagnosed(tmp_path, ill | {"worker": {"host": "192.0.2.7"}})["loopback"]


def test_processes_of_a_dead_cluster(tmp_path: Path, ill: dict[str, Any]) -> None:
    # Ray ends its processes when `up` is killed; this is one that did not hear of it.
    left = subprocess.Popen(["sleep", "100"], env={**os.environ, CLUSTER_VARIABLE: "sick-0123456789abcdef"})
    try:
        found = diagnosed(tmp_path, ill)
    finally:
        left.kill()
        left.wait()
    assert f"sick-0123456789abcdef: 1 processes, as pid {left.pid}" in found["orphans"]
    assert "triptych down --all" in found["orphans"]


# --- a running cluster ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster, which tests hurt and let heal; what is stopped stays until the doctor has seen it."""
    folder = tmp_path_factory.mktemp("doctor")
    with running(folder / "c", {**tiny_config(folder), "controller": {"ping_timeout_s": 90}}) as cluster:
        yield cluster


def examined(cluster: Cluster, *options: str) -> dict[str, str]:
    """Fix by code of everything that doctor finds at a running cluster."""
    done = cluster.cli("doctor", "--json", *options, timeout_s=120)
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1), done.stderr
    return {finding["code"]: f"{finding['detail']} {finding['fix']}" for finding in report["findings"]}


def test_a_sound_cluster_has_no_fault(tiny: Cluster) -> None:
    assert set(examined(tiny)) <= {"orphans", "link_slow"}, "other clusters may be there, and may use the machine"


def test_a_slow_link(tiny: Cluster) -> None:
    tiny.arm("decode-0", "probing=1:stall=2")
    found = examined(tiny)
    assert "prefill-0 -> decode-0" in found["link_slow"]
    assert "worker.host" in found["link_slow"]


def test_a_stopped_worker_is_silent_then_missing(tiny: Cluster) -> None:
    pid = int(tiny.workers()["decode-0"]["pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: int(tiny.workers().get("decode-0", {}).get("report_age_ms", 9999)) > 2000, 10, "it is silent")
        found = examined(tiny, "--quick")
    finally:
        with contextlib.suppress(ProcessLookupError):  # the controller may have replaced it
            os.kill(pid, signal.SIGKILL)
    named = {"worker_silent", "worker_missing", "not_ready"} & set(found)
    assert named, found
    assert any("decode" in found[code] for code in named)
    tiny.wait_serving()


def test_a_dead_store(tiny: Cluster) -> None:
    tiny.arm("decode-0", "probing=0:store-death")
    found = examined(tiny)
    assert "drain" in found["link_broken"]


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    command = [TRIPTYCH, "doctor", "--server", f"127.0.0.1:{free_port()}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    codes = {finding["code"] for finding in json.loads(done.stdout)["findings"]}
    assert "unreachable" in codes


def test_every_fault_says_what_to_do() -> None:
    assert len({problem.code for problem in PROBLEMS}) == len(PROBLEMS)
    for problem in PROBLEMS:
        assert problem.fix.endswith("."), problem.code
        assert problem.means.endswith("."), problem.code
