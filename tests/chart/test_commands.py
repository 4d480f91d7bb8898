"""The commands that the chart's pods run, as processes would run them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from services.cluster.__main__ import listens, main
from services.engine.tiny import save_tiny


class ReadyOrNot(BaseHTTPRequestHandler):
    """/readyz of a front door with workers, any other path of one without."""

    def do_GET(self) -> None:
        """Answer by the path."""
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server's."""
    with HTTPServer(("127.0.0.1", 0), ReadyOrNot) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_ready_is_the_exit_status(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ready", "--url", f"http://127.0.0.1:{port}/readyz"]) == 0
    assert main(["ready", "--url", f"http://127.0.0.1:{port}/loading"]) == 1
    assert "503" in capsys.readouterr().err


def test_nobody_is_not_ready(port: int) -> None:
    assert listens("127.0.0.1", port)
    assert not listens("127.0.0.3", port)
    assert main(["ready", "--url", f"http://127.0.0.3:{port}/readyz"]) == 1


def config_file(folder: Path, path: str) -> str:
    """A configuration with that model."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"model": {"path": path}, "state_folder": str(folder / "state")}), encoding="utf-8")
    return str(file)


def test_a_pod_waits_for_a_model_that_is_still_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, coming = tmp_path / "model", tmp_path / "coming"
    save_tiny(coming)
    arrives = threading.Timer(0.2, lambda: coming.rename(there))
    arrives.start()
    assert main(["model", "--config", config_file(tmp_path, str(there)), "--wait-s", "60"]) == 0
    assert capsys.readouterr().out.strip() == str(there)
    arrives.join()


def test_a_model_that_does_not_come_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--config", config_file(tmp_path, str(tmp_path / "none"))]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_a_wrong_configuration_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("pools: {decode: {replica: 2}}\n", encoding="utf-8")
    assert main(["model", "--config", str(file)]) == 2
    assert "did you mean replicas?" in capsys.readouterr().err
