"""The `loadgen` command: exit status, tables, pages in a real browser, bad input as one sentence."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loadgen.stub import ROOT, stub_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
GAP_PX = 16  # between two plots
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND")


def loadgen(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadgen", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def steady(folder: Path, count: int = 40, rate: float = 20.0) -> Path:
    rows = [
        {"arrival_s": i / rate, "input_tokens": 8 << i % 5, "output_tokens": 8, "tenant": f"t{i % 2}"}
        for i in range(count)
    ]
    return write(folder / "workload.jsonl", rows)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a run over each door, and a search."""
    folder = tmp_path_factory.mktemp("runs")
    workload = steady(folder)
    # Bounds that a busy machine keeps too: a late generator rightly ends a search.
    options = ("-w", workload, "--slo-ttft-ms", 600_000, "--slo-tpot-ms", 60_000, "--max-lag-ms", 600_000)
    with stub_server() as urls:
        for name, url in zip(("http", "grpc"), urls, strict=True):
            ran = loadgen("replay", "-t", url, "-o", folder / name, *options)
            assert ran.returncode == 0, ran.stderr
            assert "SLO attainment" in ran.stdout and "send lag" in ran.stdout and "Traceback" not in ran.stderr
        ran = loadgen(
            *("search", "-t", urls[0], "-o", folder / "search", *options, "--low", 20, "--high", 40, "--step", 10)
        )
        assert ran.returncode == 0, ran.stderr
        assert "40 requests/s; it is the highest tried" in ran.stdout
    assert loadgen("compare", folder / "http", folder / "grpc", "--html", folder / "compare.html").returncode == 0
    return folder


def test_a_search_keeps_every_probe(runs: Path) -> None:
    found = json.loads((runs / "search" / "search.json").read_text())
    assert (found["highest_rate"], [probe["rate"] for probe in found["probes"]]) == (40.0, [20.0, 40.0])
    assert all((runs / "search" / f"rate-{rate}" / "report.json").is_file() for rate in (20, 40))


@pytest.mark.parametrize("page", ["grpc/report.html", "compare.html", "search/search.html"])
def test_pages_open_in_a_browser_without_a_network_and_without_errors(page: str, runs: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium on the path; install one, e.g. apt-get install chromium")
    command = [CHROMIUM, *QUIET, *OFFLINE, f"--user-data-dir={tmp_path}", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=10000", "--window-size=1300,900", "--dump-dom", f"file://{runs / page}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "CONSOLE" not in shown.stderr, shown.stderr[-2000:]
    drawn = len(re.findall(r'class="main-svg"', shown.stdout))
    asked = (runs / page).read_text().count('class="plotly-graph-div"')
    assert asked >= 5 and drawn >= asked
    # Plots are as wide as the page or as half of it: none was drawn before its place had its width.
    widths = {float(width) for width in re.findall(r'<svg class="main-svg"[^>]* width="([\d.]+)"', shown.stdout)}
    assert len(widths) == 2 and max(widths) == 2 * min(widths) + GAP_PX, widths
    assert "modebar-btn" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", shown.stdout, flags=re.DOTALL)
    if page.startswith("grpc"):
        assert "Waterfall of the 30 slowest requests" in shown.stdout  # which 30 of the 40 is not for us to say
        assert len(set(re.findall(r">(#\d+)<", shown.stdout))) == 30
    html = (runs / page).read_text()
    own = re.sub(r"(<script[^>]*>).*?</script>", r"\1", html, flags=re.DOTALL)  # the plot library's code names its site
    assert not re.search(r'(src|href)="https?://', own)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"arrival_s": 0, "output_tokens": 1}], "workload.jsonl:1 = 'input_tokens': is missing"),
        ([{"arrival_s": 0, "input_tokens": 4}], "workload.jsonl:1 = 'output_tokens': is missing"),
        ([{"arrival_s": -1, "input_tokens": 4, "output_tokens": 1}], "workload.jsonl:1 = 'arrival_s': cannot be '-1'"),
        ([{"arrivals": 1}], "workload.jsonl:1 = 'arrivals': is no field"),
        ([{"arrival_s": 0, "input_tokens": 4, "output_tokens": "x"}], "workload.jsonl:1 = 'output_tokens': cannot be"),
        (
            [{"arrival_s": at, "input_tokens": 4, "output_tokens": 1} for at in (0.1, 0)],
            "workload.jsonl:2 = 'arrival_s': is before the row above",
        ),
    ],
)
def test_a_bad_row_is_named(rows: list[dict], said: str, tmp_path: Path) -> None:
    workload = write(tmp_path / "workload.jsonl", rows)
    with stub_server() as urls:
        ran = loadgen("replay", "-w", workload, "-t", urls[0], "-o", tmp_path / "run")
    assert ran.returncode == 2
    assert said in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("replay", "-t", "ftp://x"), 2, "write grpc://host:port"),
        (("replay", "-t", "http://127.0.0.1:9"), 1, "nobody answers"),
        (("replay", "-t", "http://127.0.0.1:9", "--speed", "0"), 2, "--scale = 0.0: must be above 0"),
        (("search", "-t", "http://x", "--low", 0, "--high", 1, "--step", 1), 2, "--low = 0.0: must be above 0"),
    ],
)
def test_bad_options_are_one_sentence(arguments: tuple, code: int, said: str, tmp_path: Path) -> None:
    ran = loadgen(*arguments, "-w", steady(tmp_path), "-o", tmp_path / "run")
    assert ran.returncode == code
    assert said in ran.stderr and "Traceback" not in ran.stderr


def test_a_late_generator_and_a_target_that_only_fails_end_with_1_and_keep_the_report(tmp_path: Path) -> None:
    workload = steady(tmp_path, 20)
    with stub_server() as (url, _):
        late = loadgen("replay", "-w", workload, "-t", url, "-o", tmp_path / "late", "--max-lag-ms", 0)
    with stub_server(every=1, wrong=["500"]) as (url, _):
        failed = loadgen("replay", "-w", workload, "-t", url, "-o", tmp_path / "failed", "--max-lag-ms", 600_000)
    assert (late.returncode, failed.returncode) == (1, 1), late.stderr + failed.stderr
    assert "the generator was the bottleneck: requests were sent late" in late.stderr
    assert "no request succeeded" in failed.stderr and "planted 500" in failed.stdout
    for name, ran in (("late", late), ("failed", failed)):
        assert "Traceback" not in ran.stderr and (tmp_path / name / "report.html").is_file()
        assert json.loads((tmp_path / name / "report.json").read_text())["sent"] == 20


def test_what_cannot_be_written_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    workload = steady(tmp_path)
    ran = loadgen("replay", "-w", workload, "-t", "http://127.0.0.1:9", "-o", workload)
    assert ran.returncode == 2 and "cannot be a folder for results: File exists" in ran.stderr


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    ran = loadgen("compare", tmp_path, tmp_path)
    assert ran.returncode == 2 and "cannot be read as a report" in ran.stderr
    ran = loadgen("report", tmp_path)
    assert ran.returncode == 2 and "holds no run" in ran.stderr


def test_a_trace_is_inspected_as_tables_and_as_json(tmp_path: Path) -> None:
    sample = ROOT / "loadgen" / "samples" / "mooncake_conversation.jsonl"
    shown, told = loadgen("inspect", sample), loadgen("inspect", sample, "--json")
    assert (shown.returncode, told.returncode) == (0, 0), shown.stderr + told.stderr
    assert "200 rows read, 200 kept" in shown.stdout and "prefix hits" in shown.stdout
    assert "times were rounded to about 3 s" in shown.stderr
    assert (json.loads(told.stdout)["rows"], json.loads(told.stdout)["block_tokens"]) == (200, 512)
    unknown = loadgen("inspect", write(tmp_path / "trace.jsonl", [{"when": 1}]))
    assert unknown.returncode == 2 and "no known format has these columns" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    empty = loadgen("inspect", write(tmp_path / "bad.jsonl", [{"arrival_s": 0, "input_tokens": 0, "output_tokens": 1}]))
    assert empty.returncode == 1 and "1 rows read, 0 kept; dropped: 1 bad input_tokens" in empty.stdout
