"""Issue 5, peers: llama.cpp from PyPI and a Triptych cluster answer the same replay, and nothing is left running.

Needs an index that has xllamacpp, and a machine that does nothing else: a generator that is late fails the first test.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from loadgen.app import load_report

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "deploy" / "peers" / "compare.py")]


def left_over(folder: Path) -> list[str]:
    """Servers and replays of a comparison that still run."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if "llama_server.py" in words or "cluster.name=peers-" in words or str(folder) in words:
            found.append(words)
    return found


def test_both_servers_answer_every_request_and_are_compared(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["make", "peers", f"PEERS_ARGS=--out {out}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(ran.stdout[-6000:])
    if "no matching distribution" in (ran.stdout + ran.stderr).lower():
        pytest.skip("xllamacpp has no wheel for this machine: run where pip finds one (deploy/peers/requirements.txt)")
    assert ran.returncode == 0, ran.stderr
    for name, phases in (("llama.cpp", ["prefill", "decode"]), ("triptych", [])):
        report = load_report(out / name)
        assert report.generator.bottleneck == ()
        assert report.succeeded == report.sent == 24 and not report.failures
        assert report.output_tokens == 341 and report.short_outputs == 0
        assert [phase.name for phase in report.phases] == phases
    assert "Side by side" in ran.stdout and (out / "compare.html").stat().st_size > 1_000_000
    assert left_over(out) == []


def test_a_comparison_that_is_ended_leaves_no_server(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([*COMMAND, "--out", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL)
    for _ in range(3000):
        if list(out.glob("llama.cpp/samples-*")):
            break
        time.sleep(0.1)
    assert left_over(out)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 128 + signal.SIGTERM
    assert left_over(out) == []
