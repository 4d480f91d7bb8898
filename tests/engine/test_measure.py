"""`triptych profile` measures a real model and a real link, and `triptych simulate` takes what it wrote."""

import json
from pathlib import Path

import yaml
from typer.testing import CliRunner

from loadgen.app import load_report
from services.cli.__main__ import app
from services.core.config import CostConfig
from services.engine.tiny import save_tiny


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_profile_is_measured_and_simulated(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    path, trace = tmp_path / "profile.yaml", tmp_path / "workload.jsonl"
    common = ["--set", f"model.path={tmp_path / 'model'}", "--set", f"state_folder={tmp_path}"]
    printed = json.loads(run("profile", *common, "--out", str(path), "--repeats", "2", "--json"))
    told = printed.pop("measured")
    assert yaml.safe_load(path.read_text()) == {**printed, "measured": told}
    host = printed.pop("host")
    assert host["lent_speedup"] >= 1 and host["cores"] >= 1
    assert host["prefill_slowdown"] >= 1 and host["decode_slowdown"] >= 1
    # Nothing here encodes images.
    assert printed.keys() == CostConfig.model_fields.keys() - {"encode_ms", "encode_token_ms"}
    assert min(printed.values()) >= 0
    # Beside other work a single coefficient of this tiny model may be lost in noise, growth with work never is.
    assert printed["prefill_token_ms"] + printed["prefill_pair_ms"] > 0
    assert printed["decode_row_ms"] + printed["decode_context_ms"] > 0
    assert {name: each["measurements"] for name, each in told["residuals"].items()} == {
        "prefill": 15,
        "decode": 16,
        "transfer": 5,
    }
    assert all(0 <= each["median_error"] <= each["worst_error"] for each in told["residuals"].values())
    rows = [{"arrival_s": 0.1 * each, "input_tokens": 200, "output_tokens": 20} for each in range(5)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("simulate", "--trace", str(trace), "--profile", str(path), "--out", str(tmp_path / "run"))
    assert load_report(tmp_path / "run").succeeded == 5
