"""The `loadgen synth` command: makes a trace, writes it as rows, and says what it is like."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table as RichTable

from loadgen.arrivals import check_above_zero, renewal
from loadgen.compare import Table
from loadgen.formats import generic_record
from loadgen.inspection import inspection_json, inspection_tables
from loadgen.survey import Survey, survey
from loadgen.synth.burstgpt import DAY_HOURS, burstgpt_rows, burstgpt_shape, hourly, mean_rate
from loadgen.synth.category_prompts import CATEGORIES, Category, Question, parse_mix, questions
from loadgen.synth.lengths import Independent, Lengths, drawn, parse_length, sample
from loadgen.synth.servegen import read_pool
from loadgen.synth.templates import load_half
from loadgen.traces import Trace
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow

ROWS_A_STEP = 500
"""Rows between two steps of the progress bar."""
Written = tuple[WorkloadRow, dict[str, Any]]
"""A row, and what is written beside it."""

synth = typer.Typer(
    no_args_is_help=True,
    help=(
        "Make a trace: rows of JSON that `loadgen inspect` reads and `loadgen replay` sends.\n\n"
        "The same options and seed write the same bytes everywhere. A name that ends in .gz is compressed."
    ),
)
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Rate = Annotated[float, typer.Option("--rate", help="Requests per second on average.")]
Own = Annotated[float | None, typer.Option("--rate", help="Requests per second on average. Default: the model's own.")]
Duration = Annotated[float, typer.Option("--duration-s", help="Length of the trace in seconds.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Another one gives another trace of the same kind.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="File to write; one that is there is replaced.")]
AsJson = Annotated[bool, typer.Option("--json", help="What was made as one JSON object on stdout.")]
LENGTH = "A number of tokens, or lognormal:MEDIAN,P90."
TYPICAL_CV = 2.0
CV = f"Coefficient of variation of gamma and weibull gaps; above 1 is bursty. Default: {TYPICAL_CV:g}."


@synth.command()
def arrivals(
    rate: Rate,
    duration_s: Duration,
    path: Out,
    family: Annotated[str, typer.Option("--family", help="Of the gaps: poisson, gamma or weibull.")] = "poisson",
    cv: Annotated[float | None, typer.Option("--cv", help=CV)] = None,
    seed: Seed = 0,
    prompt: Annotated[str, typer.Option("--input-tokens", help=f"Prompts. {LENGTH}")] = "lognormal:512,2048",
    output: Annotated[str, typer.Option("--output-tokens", help=f"Outputs. {LENGTH}")] = "lognormal:128,400",
    lengths_from: Annotated[
        Path | None, typer.Option("--lengths-from", help="Draw both lengths from the rows of this trace instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Independent gaps at one rate.

    poisson: the smoothest traffic that many users make together.

    gamma: bursts of nearly equal times with pauses between them; weibull: more of the very long pauses.
    """
    if family == "poisson" and cv not in (None, 1):
        raise ConfigError("--cv", cv, "poisson gaps have a CV of 1; choose --family gamma or weibull")
    known = cv if cv is not None else 1.0 if family == "poisson" else TYPICAL_CV
    check_above_zero("--duration-s", duration_s, "give the length of the trace in seconds")
    times = renewal(rate, duration_s, seed, family, known)
    made = Made(family, {"rate": rate, "cv": known, "duration_s": duration_s, "seed": seed})
    write(path, _bare(drawn(times, _lengths(prompt, output, lengths_from), seed)), duration_s, made, as_json)


def _lengths(prompt: str, output: str, lengths_from: Path | None) -> Lengths:
    if lengths_from is not None:
        return sample(Trace(lengths_from), "--lengths-from")
    return Independent(parse_length(prompt, "--input-tokens"), parse_length(output, "--output-tokens"))


@synth.command()
def burstgpt(
    duration_s: Duration,
    path: Out,
    rate: Own = None,
    start_day: Annotated[int, typer.Option("--start-day", min=0, help="First day, of the trace's 61.")] = 0,
    start_hour: Annotated[int, typer.Option("--start-hour", min=0, max=23, help="First hour of that day.")] = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The shape of BurstGPT: its days and hours, bursts, conversation and API, models, failures, lengths.

    It is drawn from the published aggregates, not from rows. On its own it has 0.27 requests per second on average,

    0.02 on the quietest day and 1.7 on the busiest: give --rate for a test of some minutes.
    """
    shape, first = burstgpt_shape(), start_day * DAY_HOURS + start_hour
    segments = hourly(shape, first, duration_s)
    own = mean_rate(segments)
    if rate is not None:
        check_above_zero("--rate", rate, "give requests per second")
        segments = hourly(shape, first, duration_s, rate / own)
    facts = {"rate": rate or own, "start_day": start_day, "start_hour": start_hour}
    made = Made("burstgpt", {**facts, "duration_s": duration_s, "seed": seed})
    write(path, _bare(burstgpt_rows(shape, segments, first, seed)), duration_s, made, as_json)


@synth.command()
def servegen(
    clients: Annotated[Path, typer.Option("--clients", help="Folder or tar of chunk-*-trace.csv and -dataset.json.")],
    duration_s: Duration,
    path: Out,
    rate: Own = None,
    model: Annotated[str | None, typer.Option("--model", help="Folder of one model, where there are several.")] = None,
    start_s: Annotated[float, typer.Option("--start-s", min=0, help="Where to begin on the model's clock.")] = 0.0,
    prompt: Annotated[str | None, typer.Option("--input-tokens", help=f"Of clients without lengths. {LENGTH}")] = None,
    output: Annotated[str | None, typer.Option("--output-tokens", help=f"Of clients without lengths. {LENGTH}")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """ServeGen's mixture: each client with rates, bursts and lengths of its own, as a tenant.

    Clients that have rates and no lengths are left out, unless --input-tokens and --output-tokens say what they ask.
    """
    check_above_zero("--duration-s", duration_s, "give the length of the trace in seconds")
    if (prompt is None) != (output is None):
        raise ConfigError("--input-tokens", prompt or "", "give --input-tokens and --output-tokens together")
    fallback = _lengths(prompt, output, None) if prompt is not None and output is not None else None
    pool = read_pool(clients, start_s, duration_s, model, fallback)
    own = pool.mean_rate()
    if rate is not None:
        check_above_zero("--rate", rate, "give requests per second")
    facts = {"model": pool.name, "rate": rate or own, "own_rate": own, "start_s": start_s}
    made = Made("servegen", {**facts, "duration_s": duration_s, "seed": seed, "clients": dict(pool.counts)})
    for what, count in sorted(pool.counts.items()):
        if what.startswith("dropped: "):
            made.warnings.append(f"{count} of {pool.counts['read']} clients left out: {what.removeprefix('dropped: ')}")
        elif what not in ("read", "kept"):
            made.warnings.append(f"{count} {what}")
    write(path, _bare(pool.rows(seed, (rate or own) / own)), duration_s, made, as_json)


@synth.command()
def categories(
    rate: Rate,
    duration_s: Duration,
    path: Out,
    half: Annotated[
        str, typer.Option("--half", help="Templates: a, or b and c, which are held out for measuring.")
    ] = "a",
    mix: Annotated[str | None, typer.Option("--mix", help="Shares, as code=0.5,chat=0.5. Default: all six.")] = None,
    duplicate_rate: Annotated[
        float | None, typer.Option("--duplicate-rate", help="Share of questions that come again, in every category.")
    ] = None,
    trap_rate: Annotated[
        float | None, typer.Option("--trap-rate", help="Share that look like an earlier question and are another.")
    ] = None,
    validity_s: Annotated[float, typer.Option("--validity-s", help="How long an answer to news holds.")] = 60.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Questions in six categories with duplicates, paraphrases and traps, to test semantic caches.

    Categories: code, chat, faq, knowledge, news, support. Each row has its `prompt`, and a `label` for the judge:

    cluster: which question it is, in whatever words; kind: new, duplicate, paraphrase or trap;

    of: the earlier row that it repeats or looks like; trap: what differs; version: of the right answer, as news age.

    `loadgen replay --workload` sends the texts. Input tokens are estimated from their length; arrivals are Poisson.
    """
    check_above_zero("--duration-s", duration_s, "give the length of the trace in seconds")
    chosen = CATEGORIES if mix is None else parse_mix(mix, CATEGORIES)
    chosen = {name: _changed(each, duplicate_rate, trap_rate, validity_s) for name, each in chosen.items()}
    asked = questions(renewal(rate, duration_s, seed), load_half(half), chosen, seed)
    made = Made("categories", {"rate": rate, "half": half, "duration_s": duration_s, "seed": seed})
    write(path, _labelled(asked, made.questions), duration_s, made, as_json)


def _changed(category: Category, duplicates: float | None, traps: float | None, validity_s: float) -> Category:
    return replace(
        category,
        duplicate_rate=category.duplicate_rate if duplicates is None else duplicates,
        trap_rate=category.trap_rate if traps is None else traps,
        validity_s=None if category.validity_s is None else validity_s,
    )


# ------------------------------------------------------------------ writing


@dataclass(slots=True)
class Made:
    """What was made, and as what `loadgen/inspection.py` shows it.

    Attributes:
        kind: of trace.
        facts: what it was made with.
        counts: rows.
        questions: by category and kind; "clusters" counts different questions.
        warnings: sentences.
    """

    kind: str
    facts: dict[str, Any]
    counts: Counter[str] = field(default_factory=Counter)
    questions: dict[str, Counter[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    format: str = "rows"

    def summary(self) -> str:
        """How many rows."""
        return f"{self.counts['kept']} written"


def write(path: Path, rows: Iterable[Written], duration_s: float, made: Made, as_json: bool) -> None:
    """Write the trace and say what it is like; nothing is left at `path` unless all of it was written.

    Raises:
        ConfigError: the file cannot be written, or no request came.
    """
    part = path.with_name(path.name + ".part")
    try:
        with _opened(part, path.suffix == ".gz") as file:
            found = survey(_written(rows, file, duration_s, made.counts))
        if not found.rows:
            raise ConfigError("--duration-s", duration_s, "no request came in that time; raise it, or --rate")
        part.replace(path)
    except OSError as error:
        raise ConfigError("--out", str(path), f"cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    _tell(path, made, found, as_json)


@contextmanager
def _opened(path: Path, packed: bool) -> Iterator[IO[str]]:
    """A text file with the same bytes for the same text, packed or not."""
    with path.open("wb") as raw:
        packer = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if packed else None
        file = io.TextIOWrapper(packer or raw, encoding="utf-8", newline="\n")
        try:
            yield file
        finally:
            file.close()


def _written(rows: Iterable[Written], file: IO[str], duration_s: float, counts: Counter[str]) -> Iterator[WorkloadRow]:
    """The rows, each written before it is passed on, with a bar of the trace's time on a terminal."""
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("making", total=duration_s)
        for row, beside in rows:
            file.write(json.dumps(generic_record(row) | beside, ensure_ascii=False) + "\n")
            counts["read"] += 1
            counts["kept"] += 1
            if counts["kept"] % ROWS_A_STEP == 0:
                bar.update(task, completed=row.arrival_s)
            yield row


def _bare(rows: Iterable[WorkloadRow]) -> Iterator[Written]:
    return ((row, {}) for row in rows)


def _labelled(asked: Iterable[Question], counts: dict[str, Counter[str]]) -> Iterator[Written]:
    for each in asked:
        kinds = counts.setdefault(each.row.category, Counter())
        kinds["rows"] += 1
        kinds[each.kind] += 1
        kinds["clusters"] += each.kind in ("new", "trap")
        yield each.row, {"prompt": each.prompt, "label": each.label()}


# ------------------------------------------------------------------ telling


def _tell(path: Path, made: Made, found: Survey, as_json: bool) -> None:
    if as_json:
        by_category = {name: dict(counts) for name, counts in sorted(made.questions.items())}
        asked = {"questions": by_category} if by_category else {}
        told = {"made": made.kind, "file": str(path), **made.facts, **asked, "found": inspection_json(made, found)}
        print(json.dumps(told))
    else:
        facts = tuple((name, _shown(value)) for name, value in made.facts.items() if name != "clients")
        tables = [Table(f"made: {made.kind}", (), facts), *inspection_tables(made, found)]
        if made.questions:
            tables.append(_questions(made.questions))
        for table in tables:
            _print(table)
        option = "--workload" if made.questions else "--trace"
        out.print(
            f"\nwritten: {path}\nsend it: loadgen replay {option} {path} --target URL", markup=False, soft_wrap=True
        )
    for warning in (*made.warnings, *found.warnings):
        err.print(f"[yellow]beware[/]: {escape(warning)}", soft_wrap=True)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _questions(counts: dict[str, Counter[str]]) -> Table:
    columns = ("rows", "new", "duplicate", "paraphrase", "trap", "clusters")
    rows = tuple((name, *(str(kinds[each]) for each in columns)) for name, kinds in sorted(counts.items()))
    return Table("questions", ("category", *columns), rows)


def _print(table: Table) -> None:
    drawn_table = RichTable(title=escape(table.title), title_justify="left", show_header=any(table.columns))
    for column in table.columns:
        drawn_table.add_column(escape(column), overflow="fold")
    for row in table.rows:
        drawn_table.add_row(*map(escape, row))
    out.print(drawn_table)
