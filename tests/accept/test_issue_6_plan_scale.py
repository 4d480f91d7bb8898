"""A plan for 1,000 devices: winner and colocated baseline as whole clusters on 50,000 requests, within 15 minutes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from services.core.clock import NS_PER_S, WallClock

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
TRACE = Path(__file__).parents[2] / "loadgen" / "samples" / "azure_2023_conv.csv"
POOL = "groups:\n  - {device: a100-80g, hosts: 125, coefficients: published, price_per_hour: 2.21}\n"
MINUTES = 15
MOST_MIB = 2048


def test_a_thousand_devices(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)
    clock = WallClock()
    begun = clock.now_ns()
    command = [
        *(sys.executable, "-m", "services.cli", "plan", "--model", "opt-13b", "--trace", str(TRACE)),
        *("--hardware", str(tmp_path / "pool.yaml"), "--slo", "ttft=1s,tpot=50ms", "--out", str(tmp_path / "planned")),
    ]
    subprocess.run(command, check=True, timeout=1700)
    minutes = (clock.now_ns() - begun) / NS_PER_S / 60
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    plan = json.loads((tmp_path / "planned" / "plan.json").read_text())
    print(f"{minutes:.1f} minutes, {peak_mib:.0f} MiB;", plan["why"], plan["extrapolated"])
    assert minutes < MINUTES
    assert peak_mib < MOST_MIB
    assert plan["winner"]["devices"] > 800 and plan["baseline"] is not None
    for each in plan["validated"]:
        assert all(run["requests"] >= 50_000 for run in each["runs"]), each["placement"]
    assert any("50000 requests" in line for line in plan["extrapolated"])
