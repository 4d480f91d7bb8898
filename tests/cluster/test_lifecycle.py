"""Start, stop and what goes wrong before anything runs: messages that name the field, and no process left."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from services.engine.tiny import save_tiny
from tests.cluster.harness import TRIPTYCH, Cluster, free_port, wait_for

pytestmark = pytest.mark.cluster


def tiny_config(folder: Path) -> dict[str, Any]:
    """A cluster of a random tiny model, which loads in no time."""
    save_tiny(folder / "model")
    model = {"path": str(folder / "model"), "name": "tiny", "dtype": "float32"}
    return {"model": model, "cache": {"memory_bytes": 2**24}}


def test_down_after_kill_nine_of_up_leaves_no_process(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "c", tiny_config(tmp_path))
    cluster.start()
    try:
        assert cluster.generate([5, 6, 7], max_tokens=4, ignore_eos=True).error is None
        cluster.kill_up()
    finally:
        cluster.stop()
    assert cluster.processes() == []


def test_ctrl_c_drains_and_leaves_no_process(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "c", tiny_config(tmp_path))
    cluster.start()
    try:
        again = subprocess.run(
            [TRIPTYCH, "up", "--config", str(cluster.config_file)], capture_output=True, text=True, check=False
        )
        assert again.returncode == 2
        assert "runs already" in again.stderr
        call = cluster.stream([5, 6, 7], max_tokens=100, ignore_eos=True)
        next(iter(call))
        assert cluster.up is not None
        cluster.up.send_signal(2)
        assert len([m for m in call if m.WhichOneof("event") == "delta"]) > 0, "a running request finishes"
        assert cluster.up.wait(timeout=40) == 0
        wait_for(lambda: not cluster.processes(), 30, "no process is left")
    finally:
        cluster.stop()


def refused(folder: Path, config: dict[str, Any] | str, *options: str) -> str:
    """stderr of an `up` that must refuse with status 2 and without a traceback."""
    file = folder / "bad.yaml"
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config), encoding="utf-8")
    state = ["--state-folder", str(folder / "state")]
    command = [TRIPTYCH, "up", "--config", str(file), *state, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_unknown_keys_are_named_with_their_neighbours(tmp_path: Path) -> None:
    message = refused(tmp_path, {"pools": {"prefil": {"replicas": 1}}})
    assert "pools.prefil" in message
    assert "prefill" in message.replace("pools.prefil =", "")
    assert "line 2" in refused(tmp_path, "pools:\n  decode: {replicas: many}\n")


def test_a_busy_port_is_told_with_its_holder(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        message = refused(tmp_path, {}, "--grpc-port", str(holder.getsockname()[1]), "--http-port", str(free_port()))
        assert f"pid {os.getpid()}" in message
        assert "pytest" in message
        assert "--grpc-port" in message


def ports() -> list[str]:
    return ["--grpc-port", str(free_port()), "--http-port", str(free_port())]


def test_bad_models_are_told_with_the_file_and_the_fix(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert str(absent) in refused(tmp_path, {"model": {"path": str(absent)}}, *ports())
    pickled = tmp_path / "pickled"
    save_tiny(pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    message = refused(tmp_path, {"model": {"path": str(pickled)}}, *ports())
    assert "pytorch_model.bin" in message
    assert "safetensors" in message
    wrong = tmp_path / "wrong"
    save_tiny(wrong)
    tensors = load_file(wrong / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, wrong / "model.safetensors")
    message = refused(tmp_path, {"model": {"path": str(wrong)}}, *ports())
    assert "model.norm.weight" in message


def test_too_little_memory_is_told_before_anything_starts(tmp_path: Path) -> None:
    config = {**tiny_config(tmp_path), "cache": {"memory_bytes": 2**42}}
    message = refused(tmp_path, config, *ports())
    assert "MB are free" in message
    assert "cache.memory_bytes" in message
