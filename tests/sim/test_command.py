"""`triptych simulate`: the report of the load generator, tables, timelines, and errors that say what to do."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadgen.app import load_report
from services.cli.__main__ import app
from services.core.errors import ConfigError

SAMPLES = Path(__file__).resolve().parents[2] / "loadgen" / "samples"
TRACE = SAMPLES / "azure_2023_conv.csv"


def simulate(folder: Path, *options: str, trace: Path = TRACE) -> str:
    arguments = ["simulate", "--trace", str(trace), "--limit", "40", "--out", str(folder), *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_report_is_the_load_generators(tmp_path: Path) -> None:
    hardware = ["--hardware", "h100-80g", "--model", "llama-3-8b", "--slo-ttft-ms", "500", "--slo-tpot-ms", "50"]
    printed = simulate(tmp_path / "h100", *hardware, "--json", "--chrome-trace")
    report = load_report(tmp_path / "h100")
    assert json.loads(printed)["schema"] == report.schema
    assert (report.sent, report.succeeded, report.met) == (40, 40, 40)
    assert {phase.name for phase in report.phases} == {"queue", "prefill", "transfer", "decode"}
    assert json.loads((tmp_path / "h100" / "timeline.json").read_text())["traceEvents"]
    slower = ["--hardware", "prefill=h100-80g", "--hardware", "decode=l40s-48g", "--model", "llama-3-8b"]
    simulate(tmp_path / "l40s", *slower)
    assert report.latency.tpot_ms.intended and (other := load_report(tmp_path / "l40s").latency.tpot_ms.intended)
    assert other.p50.value > 2 * report.latency.tpot_ms.intended.p50.value


def test_workers_that_share_cores_are_slower(tmp_path: Path) -> None:
    cost = tmp_path / "profile.yaml"
    cost.write_text("prefill_token_ms: 0.5\ndecode_step_ms: 20\n")
    common = ["--profile", str(cost), "--set", "cache.memory_bytes=8000000000", "--speed", "0.5"]
    printed = simulate(tmp_path / "alone", *common)
    assert "decode-0" in printed
    simulate(tmp_path / "shared", *common, "--cores", "1")
    alone, shared = (load_report(tmp_path / name).latency.e2e_ms.intended for name in ("alone", "shared"))
    assert alone and shared and shared.p50.value > alone.p50.value


def test_a_workload_file_and_faults(tmp_path: Path) -> None:
    workload = tmp_path / "workload.jsonl"
    rows = [{"arrival_s": 0.2 * each, "input_tokens": 300, "output_tokens": 50} for each in range(20)]
    workload.write_text("".join(json.dumps(row) + "\n" for row in rows))
    faults = tmp_path / "faults.yaml"
    faults.write_text("- {kind: crash, at_s: 1.0, target: decode-0}\n")
    options = ["--hardware", "opt-13b-a100", "--faults", str(faults), "--set", "pools.decode.replicas=2"]
    simulate(tmp_path / "run", *options, trace=workload)
    assert load_report(tmp_path / "run").succeeded == 20
    assert json.loads((tmp_path / "run" / "run.simulated.json").read_text())["moves"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hardware", "h1000"], "known are a100-80g"),
        (["--hardware", "draft=h100-80g"], "prefill=NAME"),
        (["--hardware", "l40s-48g", "--model", "llama-3-70b"], "use at least 4 devices"),
        (["--speed", "0"], "must be above 0"),
        (["--profile", "/nowhere"], "cannot be read"),
    ],
)
def test_bad_options_say_what_to_write(tmp_path: Path, options: list[str], said: str) -> None:
    arguments = ["simulate", "--trace", str(TRACE), "--out", str(tmp_path), *options]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert said in result.exception.message
