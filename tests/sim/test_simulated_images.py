"""`triptych simulate` with images: encoded by workers of their own or beside prompts; contradictions are named."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadgen.app import load_report
from services.cli.__main__ import app
from services.cluster.topology import check_roles
from services.core.errors import ConfigError
from tests.sim.runs import config_of

VISION = ["--hardware", "a100-80g", "--model", "minicpm-v-2.6"]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Thirty requests of Azure's multimodal trace's columns, with none to four images."""
    chance, at_s, path = random.Random(3), 0.0, tmp_path / "images.csv"
    rows = ["TIMESTAMP,NumImages,ContextTokens,GeneratedTokens"]
    for number in range(30):
        at_s += chance.expovariate(1.0)
        rows.append(f"2025-01-01 00:{int(at_s) // 60:02d}:{at_s % 60:09.6f},{number % 5},40,8")
    path.write_text("\n".join(rows) + "\n")
    return path


def simulate(trace: Path, name: str, *options: str) -> Path:
    folder = trace.parent / name
    arguments = ["simulate", "--trace", str(trace), "--out", str(folder), *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


def workers(folder: Path) -> dict[str, dict[str, float]]:
    return {each["worker_id"]: each for each in json.loads((folder / "run.simulated.json").read_text())["workers"]}


def test_encode_workers_take_the_images_and_answer_sooner(trace: Path) -> None:
    beside = simulate(trace, "beside", *VISION, "--set", "pools.prefill.replicas=4")
    apart = simulate(trace, "apart", *VISION, "--set", "pools.prefill.replicas=1", "--set", "pools.encode.replicas=3")
    assert workers(beside).keys() == {*(f"prefill-{number}" for number in range(4)), "decode-0"}
    encoders = {name: each for name, each in workers(apart).items() if name.startswith("encode")}
    assert len(encoders) == 3 and all(each["steps"] and not each["prefill_tokens"] for each in encoders.values())
    sooner, later = load_report(apart), load_report(beside)
    assert sooner.succeeded == later.succeeded == 30
    assert sooner.latency.ttft_ms.intended and later.latency.ttft_ms.intended
    assert sooner.latency.ttft_ms.intended.p50.value < 0.8 * later.latency.ttft_ms.intended.p50.value
    assert "60 images of 640 tokens, encoded on 3 workers of their own" in sooner.notes


def test_fitted_machines_encode_by_the_profiles_times(trace: Path) -> None:
    options = ["--image-tokens", "64", "--set", "pools.encode.replicas=2", "--set", "router.cost.prefill_token_ms=0.1"]
    found = simulate(trace, "fitted", *options)
    assert sum(each["steps"] for name, each in workers(found).items() if name.startswith("encode")) > 0
    text = simulate(trace, "text", "--set", "router.cost.prefill_token_ms=0.1")
    assert "60 images of the trace are left out: the model reads text alone" in load_report(text).notes


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        (["--set", "pools.encode.replicas=2"], "pools.encode.replicas", "reads text alone"),
        ([*VISION, "--hardware", "encode=l40s-48g"], "--hardware", "there are no encode workers"),
        ([*VISION, "--image-tokens", "9"], "--image-tokens", "makes 640 tokens of an image"),
        (["--hardware", "opt-13b-a100", "--image-tokens", "9"], "--image-tokens", "without a vision tower"),
    ],
)
def test_contradictions_name_the_field(trace: Path, options: list[str], field: str, said: str) -> None:
    arguments = ["simulate", "--trace", str(trace), "--out", str(trace.parent / "bad"), *options]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ConfigError)
    assert error.path == field and said in error.fix


def test_a_cluster_does_not_start_with_encode_workers() -> None:
    with pytest.raises(ConfigError, match="no vision tower") as refused:
        check_roles(config_of(pools={"encode": {"replicas": 1}}))
    assert refused.value.path == "pools.encode.replicas"
