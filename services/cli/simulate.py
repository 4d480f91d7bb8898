"""`triptych simulate`: what clients of a cluster would see, on this machine's cost or on hardware that is not here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table as RichTable

from loadgen.app import Run, replay_simulated
from loadgen.arrivals import scaled
from loadgen.compare import report_tables
from loadgen.page import page
from loadgen.schedule import FileSchedule, ScheduledRequest
from loadgen.targets import TargetSpec
from loadgen.traces import Trace, open_text
from services.cli.output import EXIT_OK, Output, Steps
from services.cluster.config import ClusterConfig
from services.core.clock import NS_PER_S
from services.core.config import CostConfig, parse
from services.core.errors import ConfigError
from services.core.report import Report, report_to_json
from services.core.slo import RequestSample, Slo
from services.core.workload import WorkloadRow
from services.sim.chrome_trace import chrome_trace
from services.sim.cluster import SimCluster
from services.sim.config import ImagesConfig, SimConfig
from services.sim.faults import Fault, faults_from
from services.sim.machines import describe, image_tokens, pools_of, wires_of
from services.sim.outcome import SimRun
from services.sim.pools import Options

NO_COSTS = ("host", "delays", "measured")
"""Keys of a profile that are not coefficients of steps."""
RUN, CHROME = "run.simulated.json", "timeline.json"


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """What the command was asked for.

    Attributes:
        trace: a trace of any known format, or a workload file of `loadgen`.
        hardware: `NAME` for all pools, or `POOL=NAME`.
        image_tokens: that an image adds to its prompt, for a model whose vision tower is not known.
        profile: coefficients of this machine, as `core/cost.py` names them; None: the configuration's.
        limit: rows of the trace at most.
        chrome: write timelines.
    """

    trace: Path
    folder: Path
    slo: Slo
    hardware: Sequence[str] = ()
    model: str | None = None
    cores: int | None = None
    image_tokens: int | None = None
    profile: Path | None = None
    faults: Path | None = None
    speed: float = 1.0
    limit: int | None = None
    seed: int = 0
    chrome: bool = False
    as_json: bool = False


def simulate(output: Output, config: ClusterConfig, options: SimulateOptions) -> int:
    """Run it, write samples, report, page and use of the workers into the folder, and print the report.

    Raises:
        ConfigError: an unknown format, device or model, a model that does not fit, or a bad file.
    """
    sim = sim_config(options)
    costs = {name: value for name, value in _profile(options).items() if name not in NO_COSTS}
    cost = parse(CostConfig, costs, "profile") if costs else None
    tokens = image_tokens(config, sim.machines, options.image_tokens)
    sim = sim.model_copy(update={"images": ImagesConfig(tokens=tokens)})
    pools = pools_of(config, sim.machines, cost, images=tokens is not None)
    sim = wires_of(config, sim, pools, cost)
    faults = () if options.faults is None else faults_from(read_yaml("--faults", options.faults))
    run_options = Options(nvlink=sim.machines.nvlink, faults=faults, timelines=options.chrome, wishes=options.slo)
    cluster = SimCluster(config, pools, sim, run_options)
    total, images = _counted(_rows(options))  # read twice, so that no trace is too long for the memory
    notes = [describe(pool) for pool in pools]
    if images:
        notes.append(_about_images(images, tokens, config.pools.encode.replicas))
    with output.progress() as steps:
        target = _Target(cluster, _rows(options), total, steps)
        report = replay_simulated(_run_of(options, faults, notes), target)
    found = cluster.outcome()
    _write(options, report, found)
    if options.as_json:
        output.json(report_to_json(report))
        return EXIT_OK
    for table in report_tables(report):
        output.out.print(drawn(table.title, table.columns, table.rows))
    output.out.print(drawn("workers", WORKER_COLUMNS, _worker_rows(found)))
    output.line(f"report: {options.folder}/report.html and report.json")
    return EXIT_OK


def _counted(rows: Iterable[WorkloadRow]) -> tuple[int, int]:
    """Requests, and images of them."""
    total = images = 0
    for row in rows:
        total, images = total + 1, images + row.images
    return total, images


def _about_images(images: int, tokens: int | None, encoders: int) -> str:
    if tokens is None:
        return f"{images} images of the trace are left out: the model reads text alone"
    where = f"{encoders} workers of their own" if encoders else "the workers that compute prompts"
    return f"{images} images of {tokens} tokens, encoded on {where}"


def sim_config(options: SimulateOptions) -> SimConfig:
    """The simulation's configuration from the command's options."""
    machines: dict[str, Any] = {"model": options.model}
    for each in options.hardware:
        pool, equals, name = each.rpartition("=")
        if equals and pool not in ("encode", "prefill", "decode"):
            raise ConfigError("--hardware", each, "write NAME, encode=NAME, prefill=NAME or decode=NAME")
        machines |= {pool: name} if equals else {"prefill": name, "decode": name}
    measured = _profile(options)
    host, delays = dict(measured.get("host") or {}), measured.get("delays") or {}
    if options.cores is not None:
        host["cores"] = options.cores
    return parse(SimConfig, {"machines": machines, "host": host, "delays": delays})


class _Target:
    """The simulated cluster as a target of the load generator; the schedule is the workload that it was made with."""

    def __init__(self, cluster: SimCluster, rows: Iterable[WorkloadRow], total: int, steps: Steps) -> None:
        self._cluster, self._rows, self._total, self._steps = cluster, rows, total, steps

    def run(self, requests: Iterable[ScheduledRequest]) -> Iterator[RequestSample]:
        """Samples in order of their ends; rows stand for the schedule, whose prompts nobody would read."""
        self._steps.begin("simulating")
        for count, sample in enumerate(self._cluster.samples(self._rows), start=1):
            if count % 64 == 0:
                self._steps.say(f"{count} of {self._total} requests", count / self._total)
            yield sample
        self._steps.done(f"{self._total} requests")


def _run_of(options: SimulateOptions, faults: Sequence[Fault], pools: Sequence[str]) -> Run:
    workload = options.trace.name + (f" × {options.speed:g}" if options.speed != 1 else "")
    notes = [*pools, *(f"{len(faults)} faults",) * bool(faults)]
    return Run(
        schedule=lambda: iter(()),
        target=TargetSpec("sim://" + ",".join(options.hardware or ("fitted",))),
        folder=options.folder,
        slo=options.slo,
        seed=options.seed,
        name=options.folder.name,
        workload=workload,
        notes=tuple(notes),
    )


def _rows(options: SimulateOptions) -> Iterator[WorkloadRow]:
    """Rows of the trace, or of a workload file, at the speed that was asked for."""
    if options.speed <= 0:
        raise ConfigError("--speed", options.speed, "must be above 0; 2 sends twice as fast")
    return read_rows(options.trace, options.limit, options.seed, options.speed)


def read_rows(trace: Path, limit: int | None, seed: int, speed: float = 1.0) -> Iterator[WorkloadRow]:
    """Rows of a trace, or of a workload file, one by one.

    Args:
        limit: rows at most.
        seed: of what a workload file draws.
    """
    if not trace.exists():
        raise ConfigError("--trace", str(trace), "is not there")
    rows: Iterable[WorkloadRow]
    if _is_workload(trace):
        rows = map(row_of, FileSchedule(trace, seed=seed)())
    else:
        rows = (row for row in Trace(trace) if not row.failed)
    if speed != 1:
        rows = scaled(rows, speed)
    for count, row in enumerate(rows):
        if limit is not None and count >= limit:
            return
        yield row


def _is_workload(path: Path) -> bool:
    """Whether the first line is one of loadgen's workload files."""
    if path.is_dir() or path.suffix in (".tar", ".xz", ".csv"):
        return False
    with open_text(path) as lines:
        head = lines.readline(1 << 20)
    try:
        row = json.loads(head)
    except ValueError:
        return False
    return isinstance(row, dict) and {"arrival_s", "output_tokens"} <= row.keys()


def row_of(request: ScheduledRequest) -> WorkloadRow:
    """A scheduled request as a row of a workload."""
    return WorkloadRow(
        arrival_s=request.intended_ns / NS_PER_S,
        input_tokens=request.input_tokens,
        output_tokens=request.output_tokens,
        session=request.session,
        turn=request.turn,
        think_s=None if request.think_ns is None else request.think_ns / NS_PER_S,
        tenant=request.tenant,
        category=request.category,
    )


def read_yaml(option: str, path: Path) -> Any:
    """What a file of YAML or JSON holds."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(option, str(path), f"cannot be read as YAML or JSON: {error}") from None


def _profile(options: SimulateOptions) -> Mapping[str, Any]:
    """What `triptych profile` wrote: coefficients, `host`, and how they were `measured`."""
    if options.profile is None:
        return {}
    data = read_yaml("--profile", options.profile)
    if not isinstance(data, dict):
        raise ConfigError("--profile", str(options.profile), "must be a mapping of coefficients, as under router.cost")
    return data


# ------------------------------------------------------------------ results

WORKER_COLUMNS = ("worker", "busy", "steps", "prompt tokens", "decoded tokens", "most KV")


def _worker_rows(run: SimRun) -> list[tuple[str, ...]]:
    length_s = max(run.duration_s, 1e-9)
    return [
        (
            f"{each.worker_id}" + (f" ({each.incarnation})" if each.incarnation > 1 else ""),
            f"{each.busy_s / length_s:.0%}",
            str(each.steps),
            str(each.prefill_tokens),
            str(each.decode_tokens),
            f"{each.peak_kv_share:.0%}",
        )
        for each in run.workers
    ]


def _write(options: SimulateOptions, report: Report, run: SimRun) -> None:
    """What the load generator does not write: the page, the workers, the timelines."""
    (options.folder / "report.html").write_text(page([report], [report.name]), encoding="utf-8")
    kept = {
        "duration_s": run.duration_s,
        "events": run.events,
        "bytes_moved": run.bytes_moved,
        "moves": run.moves,
        "placements": run.placements,
        "workers": [dataclasses.asdict(worker) for worker in run.workers],
    }
    (options.folder / RUN).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if options.chrome:
        (options.folder / CHROME).write_text(json.dumps(chrome_trace(run)) + "\n", encoding="utf-8")


def drawn(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    """A table for the terminal."""
    table = RichTable(title=escape(title), title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
