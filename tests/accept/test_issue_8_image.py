"""Issue 8: the shell steps of the image run in a clean folder and virtual environment, and what they make serves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster.harness import free_port
from tests.deploy.dockerfile import ROOT, built_from

pytestmark = [pytest.mark.accept, pytest.mark.cluster]

STEP_S, READY_S = 1800, 300


def test_issue_8_the_steps_of_the_image_make_a_program_that_serves(tmp_path: Path) -> None:
    """Every COPY and RUN of the cpu target, in order; a container would only add the base image and the user."""
    source, venv, home = tmp_path / "src", tmp_path / "venv", tmp_path / "home"
    source.mkdir()
    home.mkdir()
    index = subprocess.run(["pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False)
    steps = {"VENV": str(venv), "SOURCE": str(source), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if index.stdout.strip():  # where PyTorch's own index is out of reach, as for `make setup`
        steps["TORCH_INDEX"] = index.stdout.strip()
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for stage in built_from("cpu"):
        for instruction, text in stage.steps:
            if instruction == "COPY":
                *names, _ = text.split()
                for name in names:
                    copy(ROOT / name, source / name)
            elif instruction == "RUN":
                subprocess.run(
                    ["bash", "-o", "pipefail", "-c", text], cwd=source, env=outside | steps, check=True, timeout=STEP_S
                )
    shutil.rmtree(source)  # the image has no source beside the packages
    serve(venv, home, outside | {"PATH": f"{venv}/bin:/usr/bin:/bin", "HOME": str(home)})


def copy(source: Path, target: Path) -> None:
    """A file or a folder, without what the image leaves out."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def serve(venv: Path, home: Path, environment: dict[str, str]) -> None:
    """The image's command, a chat, and an end without anything left."""
    config, grpc_port = home / "config.yaml", free_port()
    config.write_text("cluster: {name: image}\n", encoding="utf-8")
    ports = ["--grpc-port", str(grpc_port), "--http-port", str(free_port())]
    up = subprocess.Popen(
        [venv / "bin" / "triptych", "up", "--config", config, *ports],
        cwd=home, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert up.stdout is not None
        assert any(line.strip() == "ready" for line in up.stdout), "it ended before it was ready"
        words = ["chat", "What is the capital of France? Answer in one sentence.", "--temperature", "0"]
        chat = subprocess.run(
            [venv / "bin" / "triptych", *words, "--server", f"127.0.0.1:{grpc_port}"],
            cwd=home, env=environment, capture_output=True, text=True, timeout=READY_S, check=False,
        )  # fmt: skip
        assert "Paris" in chat.stdout, chat.stderr
    finally:
        up.send_signal(signal.SIGINT)  # as the image's STOPSIGNAL
        assert up.wait(timeout=60) in (0, 130)
        assert up.stdout is not None
        up.stdout.close()
