"""`triptych plan`: which workers, how many and where, for a model, a trace, an objective and the hardware there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from services.cli.output import EXIT_OK, Output
from services.cli.plan_page import plan_page
from services.cli.simulate import drawn, read_rows, read_yaml
from services.cluster.config import ClusterConfig
from services.core.config import parse
from services.core.errors import ConfigError
from services.sim.config import DelaysConfig
from services.sim.models import MODELS, ModelSpec, model_from_hf, model_named
from services.sim.plan import written
from services.sim.plan.config import HardwareConfig
from services.sim.plan.goodput import Objective
from services.sim.plan.placement import Aim, Placement
from services.sim.plan.reasons import guesses, why
from services.sim.plan.workload import Workload, survey
from services.sim.search import Plan, Question, Validated, plan
from services.sim.speculation import Speculation

DOCUMENT, CLUSTER, PAGE = "plan.json", "cluster.yaml", "plan.html"
SHOWN = 12
UNITS = {"ms": 1.0, "s": 1000.0}
WIDTH = 150
"""Of the table where no terminal has another one."""
FRONT_DOOR_REQUESTS = 100_000
MOST_SEQUENCES = 256
COLUMNS = ("", "placement", "kind", "req/s", "per device", "devices", "price/h", "kW", "P99 TTFT", "P99 TPOT", "bound")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the command was asked for.

    Attributes:
        model: name of models.py, or a folder with a config.json.
        slo: `ttft=250ms,tpot=0.1s`.
        attainment: share of requests that must keep both.
        rate: requests a second that must be taken; None: as the objective says.
        limit: rows of the trace at most.
        unit_requests: of each run of one worker.
        full_requests: of a validation; None: enough for the hardware, 50,000 for a thousand devices.
        speculation: `acceptance=0.7,draft=2ms`; "": nobody guesses.
    """

    model: str
    hardware: Path
    trace: Path
    folder: Path
    slo: str
    aim: Aim = Aim.GOODPUT
    attainment: float = 0.9
    rate: float | None = None
    limit: int | None = None
    unit_requests: int = 600
    full_requests: int | None = None
    processes: int = 2
    seed: int = 0
    as_json: bool = False
    speculation: str = ""


def make_plan(output: Output, config: ClusterConfig, options: PlanOptions) -> int:
    """Search, print the table and the reasons, and write the cluster's YAML, the document and the page.

    Raises:
        ConfigError: a bad option, or no placement does; the message names what binds and the nearest choice.
    """
    with output.progress() as steps:
        steps.begin("reading the trace")
        question = question_of(config, options)
        workload = question.workload
        steps.done(f"{workload.rows} requests, {workload.mean_input:.0f} + {workload.mean_output:.0f} tokens")
        steps.begin("planning")
        found = plan(question, steps.say)
        steps.done(f"{len(found.goodputs)} workers and {len(found.validated)} clusters simulated")
    lines = sentences(found, question)
    document = document_of(found, question, lines)
    options.folder.mkdir(parents=True, exist_ok=True)
    started = write_cluster(found, question, options)
    document["cluster_yaml"] = started
    (options.folder / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (options.folder / PAGE).write_text(plan_page(found, lines["why"], lines["extrapolated"]), encoding="utf-8")
    if options.as_json:
        output.json(document)
        return EXIT_OK
    table = drawn("placements, best first (* on the Pareto front)", COLUMNS, rows_of(found))
    if not output.out.is_terminal:
        output.out.width = WIDTH
    output.out.print(table)
    for title, kept in lines.items():
        output.line(f"\n{title}:")
        for line in kept:
            output.line(f"  {line}")
    output.line(f"\n{started}\nplot: {options.folder / PAGE}")
    return EXIT_OK


def question_of(config: ClusterConfig, options: PlanOptions) -> Question:
    """Everything read and checked."""
    data = read_yaml("--hardware", options.hardware)
    if not isinstance(data, dict):
        raise ConfigError("--hardware", str(options.hardware), "must have the key groups: a list of devices and hosts")
    hardware = parse(HardwareConfig, data, "hardware")
    model = model_of(options.model)
    ttft_ms, tpot_ms = parse_slo(options.slo)
    delays = DelaysConfig()
    overhead = delays.door_ms + delays.dispatch_ms + delays.stream_ms
    objective = Objective(ttft_ms, tpot_ms, options.attainment, overhead)
    devices = sum(group.hosts * group.per_host for group in hardware.groups)
    return Question(
        model=model,
        hardware=hardware,
        workload=with_pictures(survey(read_rows(options.trace, options.limit, options.seed), options.seed), model),
        objective=objective,
        aim=options.aim,
        rate=options.rate,
        config=planned_config(config),
        unit_requests=options.unit_requests,
        full_requests=options.full_requests or max(2000, 50 * devices),
        processes=options.processes,
        seed=options.seed,
        speculation=parse_speculation(options.speculation) if options.speculation else None,
    )


def parse_speculation(text: str) -> Speculation:
    """`acceptance=0.7,draft=2ms`, or `draft=` and the name of a model.

    Raises:
        ConfigError: another form, or no acceptance rate.
    """
    given = dict(part.strip().partition("=")[::2] for part in text.split(","))
    unknown = [name for name in given if name not in ("acceptance", "draft")]
    try:
        if unknown:
            raise ValueError(unknown)
        acceptance, draft = float(given["acceptance"]), given.get("draft", "0ms")
        guess = Speculation(acceptance, draft_ms=float(draft.removesuffix("ms"))) if draft.endswith("ms") else None
    except (KeyError, ValueError):
        fix = "write acceptance=0.7,draft=2ms, or draft= and a model: the measured acceptance rate, the time of a guess"
        raise ConfigError("--speculation", text, fix) from None
    return guess or Speculation(acceptance, model_of(draft))


def with_pictures(workload: Workload, model: ModelSpec) -> Workload:
    """Pictures take room and time as the model says; one that reads text alone leaves them out."""
    if model.vision is None or workload.pictures is None:
        return replace(workload, pictures=None)
    return replace(workload, image_tokens=model.vision.tokens)


def planned_config(config: ClusterConfig) -> ClusterConfig:
    """Limits that stand in the way of large workers are raised, where the configuration leaves them as they are."""
    updates: dict[str, Any] = {}
    if "max_sequences" not in config.scheduler.model_fields_set:
        updates["scheduler"] = config.scheduler.model_copy(update={"max_sequences": MOST_SEQUENCES})
    if "max_running_requests" not in config.frontdoor.model_fields_set:
        updates["frontdoor"] = config.frontdoor.model_copy(update={"max_running_requests": FRONT_DOOR_REQUESTS})
    return config.model_copy(update=updates)


def model_of(name: str) -> ModelSpec:
    """A model by name, or from the config.json of a folder."""
    file = Path(name) / "config.json"
    if name in MODELS or not file.exists():
        return model_named(name)
    try:
        return model_from_hf(json.loads(file.read_text(encoding="utf-8")), Path(name).name)
    except (OSError, ValueError) as error:
        raise ConfigError("--model", name, f"{file} cannot be read: {error}") from None


def parse_slo(text: str) -> tuple[float, float]:
    """Bounds in ms from `ttft=250ms,tpot=0.1s`; one that is not named is no bound.

    Raises:
        ConfigError: another form.
    """
    found = {"ttft": float("inf"), "tpot": float("inf")}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        unit = next((unit for unit in UNITS if value.endswith(unit)), "")
        try:
            number = float(value.removesuffix(unit)) * UNITS[unit]
            if name not in found or not 0 < number < float("inf"):
                raise ValueError(part)
        except (KeyError, ValueError):
            raise ConfigError("--slo", part, "write ttft=250ms,tpot=0.1s: names ttft and tpot, units ms or s") from None
        found[name] = number
    return found["ttft"], found["tpot"]


# ------------------------------------------------------------------ results


def sentences(found: Plan, question: Question) -> dict[str, list[str]]:
    """Why the winner wins, and what was not simulated."""
    runs = next(each.runs for each in found.validated if each.new is found.winner)
    return {
        "why": why(found.winner, found.baseline, found.found, question.aim) + guesses(found.winner, question.workload),
        "extrapolated": written.extrapolated(
            question.workload, found.limits.groups, found.winner, runs, found.skipped, found.hopeless
        ),
    }


def document_of(found: Plan, question: Question, lines: dict[str, list[str]]) -> dict[str, Any]:
    """The plan for programs."""
    return {
        "schema": written.SCHEMA,
        "model": question.model.name,
        "objective": question.aim.value,
        "slo": {
            "ttft_ms": written.finite(question.objective.ttft_ms),
            "tpot_ms": written.finite(question.objective.tpot_ms),
            "attainment": question.objective.attainment,
        },
        "seed": question.seed,
        "winner": written.placement_document(found.winner, True),
        "baseline": found.baseline and written.placement_document(found.baseline, False),
        "placements": [written.placement_document(each, on) for each, on in zip(found.found, found.front, strict=True)],
        "validated": [_validated(each) for each in found.validated],
        "workers": [written.goodput_document(each) for each in found.goodputs],
        "refused": [
            {"device": each.device, "tp": each.tp, "pp": each.stages, "constraint": each.constraint, "why": each.why}
            for each in found.refused
        ],
        **lines,
    }


def _validated(each: Validated) -> dict[str, Any]:
    return {
        "placement": str(each.old),
        "computed_rps": each.old.rate,
        "confirmed_rps": each.new.rate,
        "runs": [
            {
                "rate_rps": run.rate,
                "requests": run.requests,
                "copies": run.copies,
                "attainment": run.attainment,
                "ttft_attainment": run.ttft_attainment,
                "tpot_attainment": run.tpot_attainment,
                "ttft_p99_ms": written.finite(run.ttft_p99_ms),
                "tpot_p99_ms": written.finite(run.tpot_p99_ms),
                "failed": run.failed,
            }
            for run in each.runs
        ],
    }


def rows_of(found: Plan) -> list[tuple[str, ...]]:
    """The table: the best ones, and the baseline wherever it stands."""
    rows = []
    validated = [each.new for each in found.validated]
    for place, (each, on) in enumerate(zip(found.found, found.front, strict=True)):
        if place < SHOWN or each is found.baseline:
            rows.append(_row(each, on, any(each is one for one in validated)))
    return rows


def _row(each: Placement, on: bool, validated: bool) -> tuple[str, ...]:
    return (
        "*" if on else "",
        f"{each} (b{each.max_batch_tokens})",
        each.kind.value + (", validated" if validated else ""),
        f"{each.rate:.3g}",
        f"{each.per_device:.3g}",
        str(each.devices),
        "" if each.price is None else f"{each.price:.4g}",
        f"{each.watts / 1000:.3g}",
        f"{each.ttft_p99_ms:.0f} ms",
        f"{each.tpot_p99_ms:.0f} ms",
        each.binding,
    )


def write_cluster(found: Plan, question: Question, options: PlanOptions) -> str:
    """Write the YAML of the best placement that `triptych up` can start; says which that is."""
    best = next((each for each in _by_trust(found) if not written.why_not_startable(each)), None)
    path = options.folder / CLUSTER
    if best is None:
        path.unlink(missing_ok=True)
        return f"no {CLUSTER}: {written.why_not_startable(found.winner)}"
    document = written.cluster_document(best, question.config, options.model)
    head = f"# {best}: {best.rate:.4g} requests/s of {best.copies} cluster(s) like this one\n"
    path.write_text(head + yaml.safe_dump(document, sort_keys=True), encoding="utf-8")
    if best is found.winner:
        return f"cluster: {path}"
    reason = written.why_not_startable(found.winner)
    return f"cluster: {path} is {best}, not the winner: {reason}"


def _by_trust(found: Plan) -> Sequence[Placement]:
    """The winner, then what was validated, then the others."""
    validated = [each.new for each in found.validated if each.new.rate > 0]
    return [found.winner, *validated, *found.found]
