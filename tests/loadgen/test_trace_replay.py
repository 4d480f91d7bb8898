"""`loadgen replay --trace`: the command over real sockets, its plan before sending, and bad input by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loadgen.__main__ import main
from loadgen.app import load_report
from services.core.slo import Outcome
from tests.loadgen.stub import ROOT, stub_server
from tests.loadgen.test_command import loadgen, write
from tests.loadgen.test_replay import samples_of

SAMPLES = ROOT / "loadgen" / "samples"
AZURE, MOONCAKE = SAMPLES / "azure_2023_code_bursts.csv", SAMPLES / "mooncake_conversation.jsonl"
RELAXED = ("--max-lag-ms", 600_000)
Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """The command in this process, which is quicker: its exit status, and what it said on stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["loadgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def test_a_window_of_a_trace_is_sent_with_its_lengths_times_and_faults(tmp_path: Path) -> None:
    options = ("--trace", AZURE, "--window-s", 60, "--rate", 3, "--scale", 15, "--length-scale", 0.03125)
    options += ("--output-scale", 1, "--max-output-tokens", 32, "--disconnect-share", 0.2, "--seed", 3)
    told = loadgen("replay", *options, "--dry-run", "--json")
    assert told.returncode == 0, told.stderr
    plan = json.loads(told.stdout)
    with stub_server() as urls:
        for name, url in zip(("http", "grpc"), urls, strict=True):
            folder = tmp_path / name
            ran = loadgen("replay", *options, "-t", url, "-o", folder, "--processes", 2, *RELAXED)
            # 1: on a busy machine the generator says that it was the bottleneck; what is sent stays the same.
            assert ran.returncode in {0, 1} and "Traceback" not in ran.stderr, ran.stderr
            for said in ("1300 rows read, 1300 kept", "outside the window", "CV of gaps", "leave within the output"):
                assert said in ran.stdout.replace("\n", " "), ran.stdout
            samples = samples_of(folder)
            count = plan["survey"]["rows"]
            assert [each.index for each in samples] == list(range(count)) and count > 150
            assert sum(each.input_tokens for each in samples) == plan["input_tokens"]
            assert sum(each.wanted_tokens for each in samples) == plan["output_tokens"]
            left = [each for each in samples if each.fault == "disconnect"]
            assert len(left) == plan["faults"]["leave within the output"] > 15
            assert {each.outcome for each in samples if not each.fault} == {Outcome.OK}
            assert all(each.output_tokens == each.wanted_tokens for each in samples if not each.fault)
            assert json.loads((folder / "plan.json").read_text()) == plan
            assert load_report(folder).workload == f"{AZURE.name}, 60.0 s from 621 s on, 15 times as fast"
    times = [[each.intended_ns for each in samples_of(tmp_path / name)] for name in ("http", "grpc")]
    assert times[0] == times[1]


def test_closed_loop_turns_of_a_trace_wait_for_the_turn_before(tmp_path: Path) -> None:
    rows = [
        {"arrival_s": 0.1 * session + 9.0 * turn, "input_tokens": 8, "output_tokens": 4, "session": f"s{session}",
         "turn": turn, "think_s": 0.05 * turn}
        for turn in range(3) for session in range(4)
    ]  # fmt: skip
    trace = write(tmp_path / "rows.jsonl", rows)
    with stub_server() as urls:
        ran = loadgen("replay", "--trace", trace, "-t", urls[0], "-o", tmp_path / "run", *RELAXED)
    assert ran.returncode == 0, ran.stderr
    assert "8 are turns that wait for the end of the turn before" in " ".join(ran.stdout.replace("│", "").split())
    samples = {(each.session, each.turn): each for each in samples_of(tmp_path / "run")}
    assert len(samples) == 12
    for (session, turn), sample in samples.items():
        if turn:
            assert sample.intended_ns == samples[session, turn - 1].end_ns + turn * 50_000_000


def test_a_search_may_use_a_trace(tmp_path: Path) -> None:
    options = (
        "--trace",
        AZURE,
        "--window-s",
        30,
        "--rate",
        3,
        "--length-scale",
        0.01,
        "--slo-ttft-ms",
        600_000,
        *RELAXED,
    )
    with stub_server() as urls:
        ran = loadgen("search", *options, "-t", urls[0], "-o", tmp_path, "--low", 20, "--high", 20, "--step", 1)
    assert ran.returncode == 0, ran.stderr
    report = load_report(tmp_path / "rate-20")
    assert report.succeeded == report.sent > 80 and "azure_2023_code_bursts.csv, 30.0 s from" in report.workload


BURST_8 = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.mark.parametrize(
    ("content", "options", "code", "said"),
    [
        # Columns in the order of another file: values do not fit their names.
        (BURST_8 + "5,ChatGPT,472,18,490,Conversation log,7,3.5\n", (), 2, "bad Response tokens (first: row 1)"),
        (BURST_8 + "5,ChatGPT,472,18,490,Conversation log\n", (), 2, "wrong number of columns (first: row 1)"),
        ("when,how much\n1,2\n", (), 2, "no known format has these columns"),
        (BURST_8, ("--format", "excel"), 2, "--format = 'excel': is not known; use one of burstgpt"),
        (BURST_8, ("--format", "azure"), 2, "these are not the columns of azure"),
        (BURST_8, (), 2, "no row can be sent: 0 rows read, 0 kept"),
        ("", (), 2, "no known format has these columns"),
        (None, ("--scale", 0), 2, "--scale = 0.0: must be above 0"),
        (None, ("--scale", -2), 2, "--scale = -2.0: must be above 0"),
        (None, ("--window-s", 60, "--rate", 0), 2, "--rate = 0.0: must be above 0"),
        (None, ("--window-s", 60, "--rate", 900), 2, "--rate = 900.0: windows of 60 s have"),
        (None, ("--rate", 1), 2, "--rate = 1.0: chooses a window"),
        (None, ("--turns", "half"), 2, "--turns = 'half': use one of closed, open"),
        (None, ("--text",), 2, "--text = True: needs --tokenizer"),
        (None, ("--chat",), 2, "--text = True: needs --tokenizer"),
        (None, ("--tokenizer", "/nowhere.json"), 2, "--tokenizer = '/nowhere.json'"),
        (None, ("--vocab-size", 10), 2, "--vocab-size = 10: must be above 2000"),
        (None, ("-w", "x.jsonl"), 2, "name a --trace, or literal requests with --workload; not both"),
        (None, (), 1, "--target http://127.0.0.1:9: nobody answers"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    content: str | None, options: tuple, code: int, said: str, tmp_path: Path, typed: Typed
) -> None:
    trace = MOONCAKE
    if content is not None:
        trace = tmp_path / "trace.csv"
        trace.write_text(content)
    ended, told = typed("replay", "--trace", trace, "-t", "http://127.0.0.1:9", "-o", tmp_path / "run", *options)
    assert ended == code, told
    assert said in told and "Traceback" not in told


def test_options_that_would_do_nothing_are_refused(tmp_path: Path, typed: Typed) -> None:
    literal = write(tmp_path / "w.jsonl", [{"arrival_s": 0, "input_tokens": 4, "output_tokens": 1}])
    for options, said in (
        (("-w", literal, "-t", "http://127.0.0.1:9", "--dither-s", 3), "--dither-s = 3.0: is for a --trace"),
        (("--trace", MOONCAKE), "--target = None: name the server"),
        (("--trace", MOONCAKE, "--json", "-t", "http://127.0.0.1:9"), "--json = True: is for --dry-run"),
        (("-w", literal, "--dry-run"), "--dry-run = True: shows the plan of a --trace"),
    ):
        code, told = typed("replay", *options)
        assert code == 2 and said in told


def test_rows_that_are_none_are_counted_and_the_rest_is_sent(tmp_path: Path) -> None:
    hashed = {"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [0, 1]}
    rows = [
        hashed,
        {**hashed, "hash_ids": [0]},
        {**hashed, "output_length": -1},
        {**hashed, "timestamp": "soon"},
        hashed,
    ]
    trace = write(tmp_path / "trace.jsonl", rows)
    with stub_server() as urls:
        ran = loadgen("replay", "--trace", trace, "-t", urls[0], "-o", tmp_path / "run", *RELAXED)
    assert ran.returncode == 0, ran.stderr
    told = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (told["read"], told["kept"], load_report(tmp_path / "run").succeeded) == (5, 2, 2)
    assert told["dropped"] == {
        "bad output_length": 1, "bad timestamp": 1, "hash_ids too short for input_length": 1,
    }  # fmt: skip
    assert "hash_ids too short for input_length (first: row 2)" in told["trace"]
