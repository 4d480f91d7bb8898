"""`triptych plan`: from a trace and a pool to a cluster that can be started, the same in every process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.settings import load_config
from services.core.errors import ConfigError

POOL = "groups:\n  - {device: a100-80g, hosts: 1, devices_per_host: 2, coefficients: published, price_per_hour: 2}\n"


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A command whose answer takes seconds: short outputs, few requests."""
    (tmp_path / "pool.yaml").write_text(POOL)
    rows = [{"arrival_s": 0.3 * each, "input_tokens": 200 + 37 * each % 900, "output_tokens": 12} for each in range(60)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *("plan", "--model", "opt-13b", "--hardware", str(tmp_path / "pool.yaml")),
        *("--trace", str(tmp_path / "trace.jsonl"), "--slo", "ttft=0.3s,tpot=80ms"),
        *("--requests", "60", "--validate", "80", "--out", str(tmp_path / "planned")),
    ]


def test_the_same_question_has_the_same_answer_in_bytes(asked: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "planned"
    result = CliRunner().invoke(app, [*asked, "--processes", "1"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    subprocess.run(
        [sys.executable, "-m", "services.cli", *asked, "--processes", "2"],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        check=True,
        capture_output=True,
        timeout=100,
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    document = json.loads(first["plan.json"])
    winner, base = document["winner"], document["baseline"]
    assert winner["rate_rps"] >= base["rate_rps"] > 0
    assert all(run["failed"] == 0 for each in document["validated"] for run in each["runs"][:1])
    assert any("Lengths are those of 60" in line for line in document["extrapolated"])
    assert b"plotly" in first["plan.html"] and "goodput of a device" in result.stdout

    config = load_config(folder / "cluster.yaml")
    assert (config.pools.prefill.replicas, config.pools.decode.replicas) == (1, 1)
    assert config.model.path == "opt-13b" and config.cache.memory_bytes > 40e9
    assert set(yaml.safe_load(first["cluster.yaml"])) >= {"pools", "cache", "model"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--slo", "ttft=300"], "units ms or s"),
        (["--slo", "ttft=20ms"], r"time to first token binds: .* write ttft=\d+ms"),
        (["--slo", "tpot=5ms"], r"time per token binds: .* write tpot=\d+ms"),
        (["--model", "opt-175b"], r"memory binds: .* 5 × a100-80g a worker; of the known models .* fits"),
        (["--model", "opt-66b"], r"coefficients|published"),
        (["--hardware", "/nowhere"], "cannot be read"),
        (["--speculation", "acceptance=0.7,gamma=5"], "the measured acceptance rate"),
        (["--speculation", "acceptance=1.7"], "share between 0 and 1"),
        (["--objective", "power", "--rate", "5000"], r"number of devices binds: the highest rate .* ask for at most"),
    ],
)
def test_what_cannot_be_is_answered(asked: list[str], changed: list[str], said: str) -> None:
    result = CliRunner().invoke(app, [*asked, "--processes", "1", *changed])
    assert isinstance(result.exception, ConfigError), result.output
    assert re.search(said, str(result.exception)), str(result.exception)


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (
            "groups: [{device: a100-80g, hosts: 2, devices_per_host: 2, devices: 5}]",
            r"devices is 5, but 2 hosts with 2",
        ),
        (
            "groups: [{device: a100-80g, hosts: 2, devices_per_host: 2}]\nbetween_hosts: {gbytes_per_s: 900}",
            r"between_hosts.gbytes_per_s is 900, faster than all links of a host .* one of them is wrong",
        ),
        ("groups: [{device: a100-80g}, {device: a100-80g}]", "write one group for each device"),
        ("groups: [{device: z9}]", r"known devices are a100-80g, .* a new one needs tflops"),
        ("groups: [{device: a100-80g}]\nmax_price_per_hour: 5", "needs a price_per_hour of every group"),
        ("hosts: 3", "groups"),
    ],
)
def test_contradictory_hardware_is_told(asked: list[str], tmp_path: Path, pool: str, said: str) -> None:
    (tmp_path / "pool.yaml").write_text(pool)
    result = CliRunner().invoke(app, [*asked, "--processes", "1"])
    assert isinstance(result.exception, ConfigError), result.output
    assert re.search(said, str(result.exception), re.DOTALL), str(result.exception)


def test_a_request_longer_than_any_pool_is_told_with_what_fits(asked: list[str], tmp_path: Path) -> None:
    with (tmp_path / "trace.jsonl").open("a") as file:
        file.write(json.dumps({"arrival_s": 20.0, "input_tokens": 400_000, "output_tokens": 12}) + "\n")
    result = CliRunner().invoke(app, [*asked, "--processes", "1"])
    assert isinstance(result.exception, ConfigError), result.output
    said = (
        r"a request of 400012 tokens.*memory binds: .* 1\.64% of the requests are longer; the nearest is a trace cut to"
    )
    assert re.search(said, str(result.exception), re.DOTALL), str(result.exception)
