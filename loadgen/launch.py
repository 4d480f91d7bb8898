"""From the options of the command line to a run: opens what is to be sent, and says what is known of it beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loadgen.app import Run
from loadgen.forecast import Forecast, choose, describe, notes
from loadgen.options import RunOptions, TargetOptions, TraceOptions, WorkloadOptions
from loadgen.plan import Plan
from loadgen.prompts import PromptMaker, plain_vocabulary, safe_vocabulary
from loadgen.replay import Limits
from loadgen.schedule import FileSchedule
from loadgen.targets import TargetSpec
from loadgen.traces import Trace
from services.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Prepared:
    """A schedule, and what is known of it before it is sent.

    Attributes:
        schedule: at its natural speed.
        name: of the workload, for reports.
        rate: requests per second.
        trace, forecast: of a trace; None of literal requests.
    """

    schedule: FileSchedule | Plan
    name: str
    rate: Callable[[], float]
    trace: Trace | None = None
    forecast: Forecast | None = None

    def at(self, speed: float) -> FileSchedule | Plan:
        """The schedule with arrivals so many times closer still."""
        return replace(self.schedule, speed=self.schedule.speed * speed)


def prepare(workload: WorkloadOptions, shape: TraceOptions, seed: int, as_text: bool) -> Prepared:
    """Open what is to be sent; a trace is read to its end, so that its mistakes are known before anything is sent."""
    path = workload.path()
    if workload.trace is None:
        shape.refuse_for_workload()
        literal = FileSchedule(path, workload.scale, seed)
        name = path.name if workload.scale == 1 else f"{path.name}, {workload.scale:g} times as fast"
        return Prepared(literal, name, lambda: literal.mean_rate() * workload.scale)
    trace = Trace(path, workload.format)
    vocabulary = plain_vocabulary(shape.vocab_size) if shape.tokenizer is None else safe_vocabulary(shape.tokenizer)
    plan = Plan(
        rows=trace,
        prompt=PromptMaker(vocabulary, seed, as_text).prompt,
        seed=seed,
        keep_sessions=shape.keep_sessions,
        session_rate=shape.session_rate,
        dither_s=shape.dither_s,
        speed=workload.scale,
        lengths=shape.lengths(),
        clients=shape.clients(),
        closed_loop=shape.closed_loop(),
    )
    plan, found = choose(trace, plan, shape.window_s, shape.start_s, shape.rate)
    return Prepared(plan, describe(path.name, plan, found), lambda: found.offered_rps, trace, found)


def make_run(prepared: Prepared, target: TargetOptions, run: RunOptions, folder: Path) -> Run:
    """The run that both `replay` and `search` begin with; its folder is made.

    Raises:
        ConfigError: no target, or a folder that cannot be made.
    """
    if target.target is None:
        raise ConfigError("--target", None, "name the server: grpc://host:port, http://host:port or https://host")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--out", str(folder), f"cannot be a folder for results: {error.strerror or error}") from None
    slo = run.slo()
    flags = (target.chat, target.ignore_eos, target.keep_alive)
    return Run(
        schedule=prepared.schedule,
        target=TargetSpec(target.target, target.model, target.api_key, *flags, slo),
        folder=folder,
        slo=slo,
        limits=Limits(run.max_in_flight, run.timeout_s),
        processes=run.processes,
        max_lag_ms=run.max_lag_ms,
        seed=run.seed,
        name=folder.name,
        workload=prepared.name,
        notes=() if prepared.forecast is None else notes(prepared.forecast),
    )
