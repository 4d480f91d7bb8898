"""The compiled simulator writes what the interpreted one writes, byte by byte; one of other sources is left alone."""

import json
import shutil
import subprocess
import sys
import sysconfig
from copy import copy
from pathlib import Path

import pytest

from deploy.compiled.dataclass_methods import written_out
from services.cli import compiled

ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT / "loadgen" / "samples" / "azure_2023_conv.csv"
FAULTS = """
- {kind: crash, at_s: 4.0, target: decode-1}
- {kind: partition, at_s: 6.0, target: prefill-0, other: door, lasts_s: 2.0}
"""
POOL = "groups:\n- {device: a100-80g, hosts: 1, devices_per_host: 2, coefficients: published, price_per_hour: 2}\n"
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no {COMPILER}: install a C compiler")


@pytest.fixture(scope="module")
def built() -> None:
    """`make compiled`: a minute, or nothing where it was done."""
    subprocess.run([sys.executable, "-m", "deploy.compiled.build"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def run(program: str, folder: Path, *arguments: str) -> tuple[str, dict[str, bytes]]:
    """What it says on stderr, and the files that it writes into `run`; as one folder is called, so is a report."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    command = [sys.executable, "-c", program, *arguments, "--out", str(folder / "run")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=200)
    return done.stderr, {path.name: path.read_bytes() for path in sorted((folder / "run").iterdir())}


def both(folder: Path, *arguments: str) -> None:
    """Run a command with both and compare."""
    said, found = run("from services.cli.__main__ import main; main()", folder, *arguments)
    assert "simulator: compiled modules" in said
    said, interpreted = run("from services.cli.__main__ import app; app()", folder, *arguments)
    assert "compiled" not in said
    assert found.keys() == interpreted.keys()
    assert [name for name in found if found[name] != interpreted[name]] == []


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("built")
def test_a_simulation_is_the_same_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "faults.yaml").write_text(FAULTS)
    more = ["--faults", str(tmp_path / "faults.yaml"), "--chrome-trace", "--slo-ttft-ms", "500", "--slo-tpot-ms", "50"]
    pools = ["--set", "pools.prefill.replicas=2", "--set", "pools.decode.replicas=3"]
    hardware = ["--hardware", "a100-80g", "--model", "llama-3-8b"]
    both(tmp_path, "simulate", "--trace", str(TRACE), "--limit", "150", "--speed", "4", *hardware, *pools, *more)


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("built")
def test_a_plan_is_the_same_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)
    rows = [{"arrival_s": 0.3 * each, "input_tokens": 200 + 37 * each % 900, "output_tokens": 12} for each in range(60)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["--model", "opt-13b", "--slo", "ttft=0.3s,tpot=80ms", "--hardware", str(tmp_path / "pool.yaml")]
    few = ["--requests", "40", "--validate", "60", "--processes", "2"]
    both(tmp_path, "plan", "--trace", str(tmp_path / "trace.jsonl"), *asked, *few)


def test_a_changed_source_outdates_it(tmp_path: Path) -> None:
    for folder in ("services", "deploy/compiled"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    assert compiled.digest(tmp_path) == compiled.digest()
    assert compiled.modules(tmp_path) == compiled.modules()
    changed = tmp_path / "services" / "router" / "choose.py"
    changed.write_text(changed.read_text() + "\n")
    assert compiled.digest(tmp_path) != compiled.digest()


SOURCE = '''
from __future__ import annotations
from dataclasses import dataclass, field

@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    names: list[str] = field(default_factory=lambda: ["a"])

@dataclass(slots=True)
class Sum:
    """Made of two."""

    left: int
    right: int
    whole: int = field(init=False)

    def __post_init__(self) -> None:
        self.whole = self.left + self.right
'''


def test_methods_that_are_written_out_are_those_of_dataclass() -> None:
    made: dict[str, type] = {}
    exec(written_out(SOURCE), made)
    Point, Sum = made["Point"], made["Sum"]
    one, other = Point(1), Point(1, 2, ["a"])
    assert one == other and one != Point(1, 3) and one != (1, 2, ["a"])
    assert repr(one) == "Point(x=1, y=2, names=['a'])"
    assert hash(Point(1, 2, ())) == hash((1, 2, ()))  # type: ignore[call-arg]
    assert copy(Point(1, 3)) == Point(1, 3)
    assert Sum(1, 2).whole == 3 and Sum(1, 2) == Sum(1, 2)  # type: ignore[call-arg, attr-defined]
    assert Sum.__hash__ is None
