"""How fast the simulator is: 32 workers, the real router and stages, lengths of the Azure conversation trace.

`python -m tests.bench.test_bench_simulator` prints the profile of the same run.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import subprocess
import sys
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import pytest

from loadgen.arrivals import scaled
from loadgen.traces import Trace
from services.cli.compiled import SITE
from services.core.seeds import stream
from services.core.workload import WorkloadRow
from services.sim.cluster import SimCluster
from services.sim.config import SimConfig, WireConfig, WiresConfig
from services.sim.network import Place
from services.sim.pools import Options
from tests.sim.runs import config_of, pools

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT / "loadgen" / "samples" / "azure_2023_conv.csv"
RATE = 80.0
LEAST_SPEEDUP = 1.5
LEAST_COMPILED = 1.8


def workload(count: int) -> list[WorkloadRow]:
    """Rows of the excerpt again and again, as a Poisson process."""
    draws, at, found = stream(1, "bench"), 0.0, []
    for row in islice(cycle(Trace(TRACE)), count):
        at += draws.expovariate(RATE)
        found.append(replace(row, arrival_s=at))
    return list(scaled(found, 1.0))


def seconds(count: int, fast: bool) -> float:
    """Processor time of a run with half of the workers for prefill, half for decode."""
    rows = workload(count)
    # Four hosts, each with four workers of both kinds, joined by 400 Gb/s.
    given = [
        replace(pool, places=tuple(Place(host=each // 4, devices=(first + each % 4,)) for each in range(16)))
        for first, pool in zip((0, 4), pools(16, 16, blocks=3500), strict=True)
    ]
    sim = SimConfig(fast_forward=fast, wires=WiresConfig(rack=WireConfig(latency_us=30, gbytes_per_s=50)))
    cluster = SimCluster(config_of(), given, sim, Options(gaps=False, nvlink=True))
    begun = time.process_time()
    run = cluster.run(rows)
    spent = time.process_time() - begun
    assert len(run.samples) == count
    return spent


def test_passing_over_steady_steps_pays() -> None:
    count = 600
    fast, single = seconds(count, True), seconds(count, False)
    print(f"\n{count / fast:.0f} requests/s; step by step {count / single:.0f} requests/s")
    assert single / fast >= LEAST_SPEEDUP


def test_the_compiled_modules_pay() -> None:
    subprocess.run([sys.executable, "-m", "deploy.compiled.build"], cwd=ROOT, check=True)
    program = "from tests.bench.test_bench_simulator import seconds; print(2000 / seconds(2000, True))"
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(3):
        for compiled, found in rates.items():
            path = f"{SITE}:{ROOT}" if compiled else str(ROOT)
            command, environment = [sys.executable, "-P", "-c", program], {**os.environ, "PYTHONPATH": path}
            found.append(float(subprocess.check_output(command, env=environment, cwd=ROOT)))
    fast, plain = median(rates[True]), median(rates[False])
    print(f"\n{fast:.0f} requests/s compiled, {plain:.0f} interpreted: {fast / plain:.2f} times")
    assert fast / plain >= LEAST_COMPILED


if __name__ == "__main__":
    profile = cProfile.Profile()
    profile.runcall(seconds, 2000, True)
    pstats.Stats(profile).sort_stats("tottime").print_stats(45)
