"""Issue 4: every command that README.md and the quick start show is taken from there and run, as a reader would.

`make serve` keeps running while the others are tried; its ports and its cluster's name are other ones, so that a
cluster of the developer's own is left alone. `make test` runs with one small folder of tests, `make replay` for 20
seconds.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.harness import free_port

pytestmark = [pytest.mark.accept, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "quick-start.md")
SMALL = "PYTEST_ARGS=tests/unit/telemetry"
SHORT = "REPLAY_ARGS='--window-s 20 --max-lag-ms 10000'"


def commands() -> list[str]:
    """Every command of every `sh` block, once, in the order of the pages."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [re.sub(r"\s+# .*", "", line).strip() for line in lines if line.strip()]
    return list(dict.fromkeys(found))


class Reader:
    """Somebody who types what the pages say, with other ports.

    Attributes:
        output: what `make serve` printed.
    """

    def __init__(self, folder: Path) -> None:
        self.ports = {"50051": str(free_port()), "8000": str(free_port())}
        self.config = folder / "cluster.yaml"
        state = folder / "state"
        self.config.write_text(yaml.safe_dump({"cluster": {"name": "readme"}, "state_folder": str(state)}))
        self.own = f"--name readme --state-folder {state}"
        self.output = ""

    def typed(self, command: str) -> str:
        """The command for this cluster instead of the default one."""
        for default, own in self.ports.items():
            command = command.replace(f":{default}", f":{own}")
        if command == "make test":
            return f"make test {SMALL}"
        if command == "make replay":
            return f"make replay GRPC_PORT={self.ports['50051']} {SHORT}"
        if re.match(r"\.venv/bin/triptych (chat|status|top|trace|scale|drain)\b", command):
            return f"{command} {self.own}"
        if re.match(r"\.venv/bin/triptych (doctor|down)\b", command):
            return f"{command} --config {self.config}"
        return command

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type one command in the root of the repository."""
        return subprocess.run(
            self.typed(command), shell=True, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
        )


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader whose `make serve` says `ready`."""
    someone = Reader(tmp_path_factory.mktemp("readme"))
    assert "make serve" in commands()
    options = f"CONFIG={someone.config} GRPC_PORT={someone.ports['50051']} HTTP_PORT={someone.ports['8000']}"
    serve = subprocess.Popen(
        f"exec make serve {options}", shell=True, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert serve.stdout is not None
    try:
        for line in serve.stdout:
            someone.output += line
            if line.startswith("or "):
                break
        yield someone
    finally:
        serve.send_signal(signal.SIGTERM)
        someone.run(".venv/bin/triptych down")
        serve.wait(timeout=60)
        serve.stdout.close()


def test_make_serve_ends_with_ready_and_requests_that_work(reader: Reader) -> None:
    lines = reader.output.splitlines()
    assert "ready" in lines, reader.output
    for line in lines[lines.index("ready") :]:
        if line.startswith(("try ", "or ")):
            command = line.split(maxsplit=1)[1].replace("triptych", ".venv/bin/triptych", 1)
            done = subprocess.run(
                command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip()
            assert '"error"' not in done.stdout, done.stdout


@pytest.mark.parametrize("command", [each for each in commands() if each != "make serve"])
def test_every_command_of_the_pages_runs(reader: Reader, command: str) -> None:
    done = reader.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
