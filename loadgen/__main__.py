"""The `loadgen` command: its subcommands and their options, live progress, tables in the terminal.

The only file that reads the environment: an API key in LOADGEN_API_KEY.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import numpy as np
import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table as RichTable

from loadgen.app import Run, Snapshot, judge_folder, load_report
from loadgen.app import replay as run_replay
from loadgen.compare import Table, compare_tables, number, report_tables
from loadgen.forecast import forecast_json, forecast_tables
from loadgen.inspection import inspection_json, inspection_tables
from loadgen.launch import Prepared, make_run, prepare
from loadgen.options import Option, RunOptions, TargetOptions, TraceOptions, WorkloadOptions
from loadgen.page import page
from loadgen.search import Grid, bisect, write_search
from loadgen.survey import survey
from loadgen.synth.app import synth
from loadgen.traces import Trace
from services.core.errors import ConfigError, StartupError, TriptychError
from services.core.report import Report
from services.core.slo import Slo

EXIT_FAILED = 1
"""It ran and the result does not hold: the generator was the bottleneck, nobody answered, or no request succeeded."""
EXIT_CANNOT_START = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="loadgen",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Replay real workloads against a server and judge it.\n\n"
        "Exit status: 0 done; 1 the run's numbers do not hold (the generator was the bottleneck, nobody answered, no "
        "request succeeded); 2 it could not start; 130 interrupted, with the report of what was gathered."
    ),
)
app.add_typer(synth, name="synth")
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder for samples and reports.")]
Ttft = Annotated[float | None, typer.Option("--slo-ttft-ms", min=0, help="Bound of the time to first token.")]
Tpot = Annotated[float | None, typer.Option("--slo-tpot-ms", min=0, help="Bound of the mean time per output token.")]
Low = Annotated[float, typer.Option("--low", help="Lowest rate to try, requests per second.")]
High = Annotated[float, typer.Option("--high", help="Highest rate to try.")]
Step = Annotated[float, typer.Option("--step", help="Rates are low, low + step, ...")]
Attainment = Annotated[float, typer.Option("--attainment", min=0, max=1, help="What a rate must reach.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and send nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as one JSON object.")]

# ------------------------------------------------------------------ options


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are dataclasses of `options.py` become one option for each of their fields."""
    groups: dict[str, Any] = {}
    parameters: list[Parameter] = []
    for name, parameter in signature(command, eval_str=True).parameters.items():
        if dataclasses.is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            parameters += options_of(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{each.name: given.pop(each.name) for each in dataclasses.fields(group)})
        command(**given)

    expanded.__dict__["__signature__"] = Signature(parameters)
    expanded.__annotations__ = {each.name: each.annotation for each in parameters}
    return expanded


def options_of(group: Any) -> list[Parameter]:
    """One parameter of a command for each field."""
    kinds, found = get_type_hints(group, include_extras=True), []
    for each in dataclasses.fields(group):
        kind, about = get_args(kinds[each.name])
        assert isinstance(about, Option), each.name
        flag = typer.Option(
            *(about.names or ("--" + each.name.replace("_", "-") + both_ways(each),)),
            help=about.help,
            min=about.least,
            max=about.most,
            envvar=about.environment,
            rich_help_panel=about.panel,
        )
        annotation = Annotated[kind, flag]  # type: ignore[valid-type]
        found.append(Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation))
    return found


def both_ways(each: dataclasses.Field[Any]) -> str:
    """The name that turns a flag off which is on by default."""
    return "/--no-" + each.name.replace("_", "-") if each.default is True else ""


# ------------------------------------------------------------------ commands


@app.command()
@with_options
def replay(
    workload: WorkloadOptions,
    shape: TraceOptions,
    target: TargetOptions,
    run: RunOptions,
    folder: Folder = Path("loadgen-run"),
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Send a workload at its own times, whatever the server does, and write the report.

    First it shows what it will send: rows kept and dropped, rate and burstiness, what a prefix cache could find.

    Ctrl-C stops sending; what was gathered is judged and written.

    Look first:  loadgen replay --trace T --window-s 600 --rate 0.7 --dry-run

    On a laptop: loadgen replay --trace T -t URL --length-scale 0.03 --output-scale 1 --max-output-tokens 64

    BurstGPT:    add --dither-s 1, and choose the window with --rate: its head is not typical

    Mooncake:    add --dither-s 3; --length-scale 0.03125 makes its blocks of 512 tokens 16 long
    """
    prepared = prepare(workload, shape, run.seed, shape.text or target.chat)
    if as_json and not dry_run:
        raise ConfigError("--json", True, "is for --dry-run; a run writes report.json")
    if dry_run and prepared.forecast is None:
        raise ConfigError("--dry-run", True, "shows the plan of a --trace; requests of --workload are their own plan")
    if as_json and prepared.forecast is not None:
        print(json.dumps(forecast_json(prepared.forecast)))
        return
    tell(prepared)
    if dry_run:
        return
    report = watched(make_run(prepared, target, run, folder))
    if prepared.forecast is not None:
        (folder / "plan.json").write_text(json.dumps(forecast_json(prepared.forecast)) + "\n", encoding="utf-8")
    write_page(folder / "report.html", [report], [report.name])
    show(report_tables(report))
    out.print(f"\nreport: {folder}/report.html and report.json", markup=False, soft_wrap=True)
    if report.generator.bottleneck:
        err.print("[bold red]the generator was the bottleneck[/]: " + escape("; ".join(report.generator.bottleneck)))
        raise typer.Exit(EXIT_FAILED)
    if report.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if report.judged and not report.succeeded:
        err.print("[bold red]no request succeeded[/]: see the table of those that did not")
        raise typer.Exit(EXIT_FAILED)


@app.command()
@with_options
def search(
    workload: WorkloadOptions,
    shape: TraceOptions,
    target: TargetOptions,
    run: RunOptions,
    low: Low,
    high: High,
    step: Step,
    folder: Folder = Path("loadgen-search"),
    attainment: Attainment = 0.9,
) -> None:
    """Find the highest rate whose SLO attainment is at least the target; every probe's report is kept."""
    grid = Grid(low, high, step)
    prepared = prepare(workload, shape, run.seed, shape.text or target.chat)
    tell(prepared)
    base, natural = make_run(prepared, target, run, folder), prepared.rate()
    if natural <= 0:
        raise ConfigError("--trace", prepared.name, "all requests come at one time, so there is no rate to change")

    def probe(rate: float) -> Report:
        speed, into = rate / natural, folder / f"rate-{rate:g}"
        name = f"{prepared.name} × {speed:g}"
        report = watched(
            dataclasses.replace(base, schedule=prepared.at(speed), folder=into, name=into.name, workload=name)
        )
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
    said = f"highest rate with attainment of at least {attainment:.0%}: {found.rate:g} requests/s{more}"
    out.print(said, markup=False, soft_wrap=True)
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


def tell(prepared: Prepared) -> None:
    """The plan of a trace, and what to beware of."""
    if prepared.forecast is not None and prepared.trace is not None:
        show(forecast_tables(prepared.forecast, prepared.trace))
        for warning in prepared.forecast.warnings:
            err.print(f"[yellow]beware[/]: {escape(warning)}", soft_wrap=True)


def write_page(path: Path, reports: Sequence[Report], names: Sequence[str]) -> None:
    """Write the HTML page.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.write_text(page(reports, names), encoding="utf-8")
    except OSError as error:
        raise ConfigError("page", str(path), f"cannot be written: {error.strerror or error}") from None


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
