"""The `loadgen` command: its subcommands and their options, live progress, tables in the terminal.

The only file that reads the environment: an API key in LOADGEN_API_KEY.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table as RichTable

from loadgen.app import Run, Snapshot, judge_folder, load_report
from loadgen.app import replay as run_replay
from loadgen.compare import Table, compare_tables, number, report_tables
from loadgen.inspection import inspection_json, inspection_tables
from loadgen.page import page
from loadgen.replay import Limits
from loadgen.schedule import FileSchedule
from loadgen.search import Grid, bisect, write_search
from loadgen.survey import survey
from loadgen.targets import TargetSpec
from loadgen.traces import Trace
from services.core.errors import ConfigError, StartupError, TriptychError
from services.core.report import Report
from services.core.slo import Slo

EXIT_FAILED = 1
"""It ran and the result does not hold: the generator was the bottleneck, or nobody answered."""
EXIT_CANNOT_START = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="loadgen",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Replay real workloads against a server and judge it.\n\n"
        "Exit status: 0 done; 1 the run's numbers do not hold (the generator was the bottleneck, nobody answered); "
        "2 it could not start; 130 interrupted, with the report of what was gathered."
    ),
)
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Workload = Annotated[
    Path, typer.Option("--workload", "-w", exists=True, dir_okay=False, help="JSON lines, one a request.")
]
TargetUrl = Annotated[str, typer.Option("--target", "-t", help="grpc://host:port, http://host:port, https://host")]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder for samples and reports.")]
Ttft = Annotated[float | None, typer.Option("--slo-ttft-ms", min=0, help="Bound of the time to first token.")]
Tpot = Annotated[float | None, typer.Option("--slo-tpot-ms", min=0, help="Bound of the mean time per output token.")]
Model = Annotated[str | None, typer.Option("--model", help="Default: the first that the server lists.")]
Key = Annotated[str | None, typer.Option("--api-key", envvar="LOADGEN_API_KEY", help="Bearer token.")]
Chat = Annotated[bool, typer.Option("--chat", help="Text prompts go to /v1/chat/completions.")]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Ask for exact output lengths.")]
KeepAlive = Annotated[bool, typer.Option("--keep-alive/--no-keep-alive", help="Reuse HTTP connections.")]
Timeout = Annotated[float, typer.Option("--timeout-s", min=0.001, help="End a request after so long.")]
Processes = Annotated[int, typer.Option("--processes", min=1, max=64, help="How many processes send.")]
InFlight = Annotated[int, typer.Option("--max-in-flight", min=1, help="More requests wait, and count as sent late.")]
MaxLag = Annotated[float, typer.Option("--max-lag-ms", min=0, help="Above this p99 the run fails.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of drawn prompts and of intervals.")]


def make_run(
    workload: Path,
    target: str,
    folder: Path,
    ttft_ms: float | None,
    tpot_ms: float | None,
    model: str | None,
    api_key: str | None,
    chat: bool,
    ignore_eos: bool,
    keep_alive: bool,
    timeout_s: float,
    processes: int,
    max_in_flight: int,
    max_lag_ms: float,
    seed: int,
) -> Run:
    """The run that both `replay` and `search` begin with."""
    slo = Slo(ttft_ms, tpot_ms)
    return Run(
        schedule=FileSchedule(workload, seed=seed),
        target=TargetSpec(target, model, api_key, chat, ignore_eos, keep_alive, slo),
        folder=folder,
        slo=slo,
        limits=Limits(max_in_flight, timeout_s),
        processes=processes,
        max_lag_ms=max_lag_ms,
        seed=seed,
        name=folder.name,
        workload=workload.name,
    )


def at_speed(run: Run, workload: Path, speed: float, folder: Path) -> Run:
    """The same run with arrivals `speed` times closer."""
    schedule = FileSchedule(workload, speed, run.seed)
    return replace(run, schedule=schedule, folder=folder, name=folder.name, workload=f"{workload.name} × {speed:g}")


@app.command()
def replay(
    workload: Workload,
    target: TargetUrl,
    folder: Folder = Path("loadgen-run"),
    speed: Annotated[float, typer.Option("--speed", help="Arrivals so many times closer.")] = 1.0,
    ttft_ms: Ttft = None,
    tpot_ms: Tpot = None,
    model: Model = None,
    api_key: Key = None,
    chat: Chat = False,
    ignore_eos: IgnoreEos = True,
    keep_alive: KeepAlive = True,
    timeout_s: Timeout = 600.0,
    processes: Processes = 1,
    max_in_flight: InFlight = 4096,
    max_lag_ms: MaxLag = 25.0,
    seed: Seed = 0,
) -> None:
    """Send a workload at its own times, whatever the server does, and write the report.

    Ctrl-C stops sending; what was gathered is judged and written.
    """
    if speed <= 0:
        raise ConfigError("--speed", speed, "must be above 0; 2 sends twice as fast")
    options = (ttft_ms, tpot_ms, model, api_key, chat, ignore_eos, keep_alive)
    run = make_run(workload, target, folder, *options, timeout_s, processes, max_in_flight, max_lag_ms, seed)
    report = watched(at_speed(run, workload, speed, folder))
    write_page(folder / "report.html", [report], [report.name])
    show(report_tables(report))
    out.print(f"\nreport: {folder}/report.html and report.json", markup=False, soft_wrap=True)
    if report.generator.bottleneck:
        err.print("[bold red]the generator was the bottleneck[/]: " + escape("; ".join(report.generator.bottleneck)))
        raise typer.Exit(EXIT_FAILED)
    if report.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command()
def search(
    workload: Workload,
    target: TargetUrl,
    low: Annotated[float, typer.Option("--low", help="Lowest rate to try, requests per second.")],
    high: Annotated[float, typer.Option("--high", help="Highest rate to try.")],
    step: Annotated[float, typer.Option("--step", help="Rates are low, low + step, ...")],
    folder: Folder = Path("loadgen-search"),
    attainment: Annotated[float, typer.Option("--attainment", min=0, max=1, help="What a rate must reach.")] = 0.9,
    ttft_ms: Ttft = None,
    tpot_ms: Tpot = None,
    model: Model = None,
    api_key: Key = None,
    chat: Chat = False,
    ignore_eos: IgnoreEos = True,
    keep_alive: KeepAlive = True,
    timeout_s: Timeout = 600.0,
    processes: Processes = 1,
    max_in_flight: InFlight = 4096,
    max_lag_ms: MaxLag = 25.0,
    seed: Seed = 0,
) -> None:
    """Find the highest rate whose SLO attainment is at least the target; every probe's report is kept."""
    grid = Grid(low, high, step)
    options = (ttft_ms, tpot_ms, model, api_key, chat, ignore_eos, keep_alive)
    run = make_run(workload, target, folder, *options, timeout_s, processes, max_in_flight, max_lag_ms, seed)
    natural = FileSchedule(workload).mean_rate()

    def probe(rate: float) -> Report:
        report = watched(at_speed(run, workload, rate / natural, folder / f"rate-{rate:g}"))
        err.print(f"{rate:g} requests/s: attainment {report.attainment.value:.1%}", markup=False, soft_wrap=True)
        if report.interrupted:
            raise typer.Exit(EXIT_INTERRUPTED)
        return report

    found = bisect(grid, attainment, probe)
    write_search(folder, found, attainment, grid)
    if found.rate is None:
        out.print(f"not even {low:g} requests/s attain {attainment:.0%}", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)
    more = "; it is the highest tried, so the limit may lie above" if found.at_the_top else ""
    out.print(
        f"highest rate with attainment of at least {attainment:.0%}: {found.rate:g} requests/s{more}",
        markup=False,
        soft_wrap=True,
    )
    out.print(f"probes: {folder}/search.html and search.json", markup=False, soft_wrap=True)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    ttft_ms: Ttft = None,
    tpot_ms: Tpot = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
) -> None:
    """Judge a run's samples again, by another SLO if one is given, and write its report."""
    slo = None if ttft_ms is None and tpot_ms is None else Slo(ttft_ms, tpot_ms)
    judged = judge_folder(folder, slo)
    write_page(folder / "report.html", [judged], [judged.name])
    if as_json:
        print((folder / "report.json").read_text(encoding="utf-8"), end="")
    else:
        show(report_tables(judged))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more folders of runs, or report.json files.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write the comparison as a page, too.")] = None,
) -> None:
    """Show runs side by side, with ratios to the first and their intervals."""
    if len(runs) < 2:
        raise ConfigError("compare", [str(run) for run in runs], "name at least two runs")
    reports = [load_report(run) for run in runs]
    names = [run.name if run.is_dir() else run.stem for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    show(compare_tables(reports, names))
    if html is not None:
        write_page(html, reports, names)
        out.print(f"\npage: {html}", markup=False, soft_wrap=True)


@app.command()
def inspect(
    trace: Annotated[Path, typer.Argument(help="A trace file, or a folder or tar of session files.")],
    file_format: Annotated[str | None, typer.Option("--format", help="Default: found by the columns.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show what a trace is like: arrivals, lengths, sharing of prefixes, every dropped row, and what to beware of."""
    opened = Trace(trace, file_format)
    found = survey(opened)
    if as_json:
        print(json.dumps(inspection_json(opened, found)))
    else:
        show(inspection_tables(opened, found))
    for warning in found.warnings:
        err.print(f"[yellow]beware[/]: {escape(warning)}", soft_wrap=True)
    if not found.rows:
        err.print("[bold red]error[/]: no row of the trace could be read", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


# ------------------------------------------------------------------ drawing


def write_page(path: Path, reports: Sequence[Report], names: Sequence[str]) -> None:
    """Write the HTML page."""
    path.write_text(page(reports, names), encoding="utf-8")


def show(tables: Sequence[Table]) -> None:
    """Print the tables."""
    for table in tables:
        drawn = RichTable(title=escape(table.title), title_justify="left", show_header=any(table.columns))
        for column in table.columns:
            drawn.add_column(escape(column), overflow="fold")
        for row in table.rows:
            drawn.add_row(*map(escape, row))
        out.print(drawn)


def watched(run: Run) -> Report:
    """Run it with progress on stderr: a live table on a terminal, else a line every ten seconds."""
    if err.is_terminal:
        with Live(console=err, refresh_per_second=2, transient=True) as live:
            return run_replay(run, lambda snapshot: live.update(progress_table(snapshot)))
    return run_replay(run, every_ten_seconds(run.name))


def progress_cells(snapshot: Snapshot) -> dict[str, str]:
    """What is known so far, latencies of the last few hundred requests."""
    elapsed_s = max(snapshot.elapsed_s, 0.001)
    failed = {name: count for name, count in snapshot.outcomes.items() if name != "ok"}
    return {
        "time": f"{snapshot.elapsed_s:.0f} s",
        "offered": f"{snapshot.offered / elapsed_s:.1f}/s",
        "achieved": f"{snapshot.sent / elapsed_s:.1f}/s",
        "in flight": str(snapshot.in_flight),
        "TTFT p50 / p99 ms": _two(snapshot.ttft_ms),
        "ITL p50 / p99 ms": _two(snapshot.itl_ms),
        "SLO attainment": f"{snapshot.met / snapshot.judged:.1%}" if snapshot.judged else "-",
        "errors": ", ".join(f"{name} {count}" for name, count in sorted(failed.items())) or "none",
    }


def _two(values: Sequence[float]) -> str:
    return " / ".join(number(float(each)) for each in np.quantile(values, (0.5, 0.99))) if len(values) else "-"


def progress_table(snapshot: Snapshot) -> RichTable:
    """The live table."""
    cells = progress_cells(snapshot)
    table = RichTable(*cells)
    table.add_row(*cells.values())
    return table


def every_ten_seconds(name: str) -> Callable[[Snapshot], None]:
    """Progress for logs."""
    told = 0

    def tell(snapshot: Snapshot) -> None:
        nonlocal told
        if snapshot.elapsed_s // 10 > told:
            told = int(snapshot.elapsed_s // 10)
            cells = ", ".join(f"{label} {value}" for label, value in progress_cells(snapshot).items())
            err.print(f"{name}: {cells}", markup=False, soft_wrap=True)

    return tell


def main() -> None:
    """Run the command; a failure is one sentence on stderr."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except TriptychError as error:
        err.print(f"[bold red]error[/]: {escape(error.message)}", soft_wrap=True)
        sys.exit(EXIT_CANNOT_START if isinstance(error, StartupError) else EXIT_FAILED)


if __name__ == "__main__":
    main()
