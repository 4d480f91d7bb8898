"""`loadgen synth`: the same bytes in every process, files that the readers open, bad input as one sentence."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadgen.__main__ import app
from loadgen.survey import survey
from loadgen.traces import Trace
from services.core.errors import ConfigError
from tests.loadgen.stub import ROOT

CLIENT = "0,2.0,2.0,Gamma,0.25,2.0\n600,2.0,2.0,Gamma,0.25,2.0\n"


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ServeGen model of three clients, one of which is malformed."""
    folder = tmp_path_factory.mktemp("servegen") / "m-test"
    folder.mkdir()
    for name, trace in (("0", CLIENT), ("1", CLIENT), ("2", "no numbers\n")):
        (folder / f"chunk-{name}-trace.csv").write_text(trace)
        window = {"input_tokens": "{10: 0.5, 90: 0.5}", "output_tokens": "{5: 0.9, 50: 0.1}"}
        (folder / f"chunk-{name}-dataset.json").write_text(json.dumps({"0": window}))
    return folder


def synth(*arguments: object) -> str:
    """Runs in this process; what is printed."""
    result = CliRunner().invoke(app, ["synth", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_process_writes_the_same_bytes(clients: Path, tmp_path: Path) -> None:
    code = (
        "from loadgen.__main__ import app; import sys; [app(line.split(), standalone_mode=False) for line in sys.stdin]"
    )
    made: dict[str, list[bytes]] = {}
    for hash_seed in ("0", "1"):
        folder = tmp_path / hash_seed
        folder.mkdir()
        common = "--rate 5 --duration-s 100 --seed 3 --json --out"
        kinds = ("arrivals --family weibull", "burstgpt", "categories --half b", f"servegen --clients {clients}")
        lines = [f"synth {kind} {common} {folder}/{place}.jsonl.gz" for place, kind in enumerate(kinds)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", code]
        ran = subprocess.run(
            command, input="\n".join(lines), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        for place, kind in enumerate(kinds):
            made.setdefault(kind, []).append((folder / f"{place}.jsonl.gz").read_bytes())
    assert all(first == second and len(first) > 1000 for first, second in made.values())


@pytest.mark.parametrize(
    "kind",
    [
        *("arrivals", "arrivals --family gamma", "arrivals --family weibull --cv 3"),
        *("burstgpt --start-hour 9", "categories", "servegen"),
    ],
)
def test_what_is_written_is_read_back_and_is_what_was_said(kind: str, clients: Path, tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    more = ("--clients", clients) if kind == "servegen" else ()
    told = json.loads(synth(*kind.split(), *more, "--rate", 5, "--duration-s", 300, "--out", path, "--json"))
    trace = Trace(path)
    found = survey(trace)
    assert trace.format == "rows" and trace.counts["read"] == trace.counts["kept"] == told["found"]["rows"] > 1000
    assert found.input_tokens == told["found"]["input_tokens"] and found.failed == told["found"]["failed"]
    assert found.rate == pytest.approx(5, rel=0.25) and found.gap_cv == pytest.approx(told["found"]["gap_cv"], rel=0.01)
    assert not (tmp_path / "made.jsonl.part").exists()


def test_tables_name_what_was_made(clients: Path, tmp_path: Path) -> None:
    told = synth("categories", "--rate", 5, "--duration-s", 60, "-o", tmp_path / "a.jsonl")
    assert "CV of gaps" in told and "paraphrase" in told and "a.jsonl" in told
    arguments = ["synth", "servegen", "--clients", str(clients), "--duration-s", "60", "-o", f"{tmp_path}/s.jsonl"]
    result = CliRunner().invoke(app, arguments)
    assert "1 of 3 clients left out: wrong number of columns" in result.stderr


def test_lengths_come_from_another_trace(tmp_path: Path) -> None:
    sample = ROOT / "loadgen" / "samples" / "azure_2023_code.csv"
    path = tmp_path / "made.jsonl.gz"
    synth("arrivals", "--rate", 10, "--duration-s", 100, "--lengths-from", sample, "-o", path)
    source = {(row.input_tokens, row.output_tokens) for row in Trace(sample)}
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert {(row["input_tokens"], row["output_tokens"]) for row in rows} <= source and len(rows) > 500


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("arrivals --rate 0 --duration-s 10", "--rate = 0.0"),
        ("arrivals --rate -3 --duration-s 10", "--rate = -3.0"),
        ("arrivals --family gamma --rate nan --duration-s 10", "--rate = nan"),
        ("arrivals --family gamma --rate 5 --duration-s -1", "--duration-s = -1.0"),
        ("arrivals --family weibull --rate 5 --duration-s 10 --cv 0", "--cv = 0.0"),
        ("arrivals --rate 5 --duration-s 10 --cv 3", "--cv = 3.0: poisson gaps have a CV of 1"),
        ("arrivals --rate 5 --duration-s 10 --family pareto", "--family = 'pareto': is not known; use one of poisson"),
        ("arrivals --rate 5 --duration-s 10 --input-tokens zipf:1", "--input-tokens = 'zipf:1'"),
        ("arrivals --rate 5 --duration-s 10 --output-tokens 0", "--output-tokens = '0'"),
        ("arrivals --rate 5 --duration-s 10 --lengths-from nowhere.csv", "nowhere.csv"),
        ("arrivals --rate 0.0001 --duration-s 1", "no request came in that time"),
        ("burstgpt --rate 0 --duration-s 10", "--rate = 0.0"),
        ("burstgpt --duration-s 9e9", "--duration-s = 9000000000.0"),
        ("burstgpt --duration-s 10 --start-day 61", "--start-day = 61"),
        ("servegen --clients nowhere --duration-s 10", "--clients = 'nowhere'"),
        ("servegen --clients nowhere --duration-s 10 --input-tokens 5", "--input-tokens and --output-tokens together"),
        ("categories --rate 5 --duration-s 10 --half d", "--half = 'd'"),
        ("categories --rate 5 --duration-s 10 --mix poems=1", "--mix = 'poems'"),
        ("categories --rate 5 --duration-s 10 --validity-s 0", "--validity-s = 0.0"),
    ],
)  # fmt: skip
def test_bad_input_names_the_field_and_leaves_no_file(arguments: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        synth(*arguments.split(), "-o", tmp_path / "made.jsonl")
    assert said in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--out"):
        synth("arrivals", "--rate", 5, "--duration-s", 10, "-o", tmp_path / "none" / "made.jsonl")
    with pytest.raises(ConfigError, match="--out"):
        synth("arrivals", "--rate", 5, "--duration-s", 10, "-o", tmp_path)
