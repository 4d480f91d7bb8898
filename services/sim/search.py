"""The planner: simulates units in parallel processes, puts placements together, and validates the best as clusters.

The only file of the simulator that starts processes. They are spawned, so that nothing is inherited, and every result
has its place: the answer does not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.pool import Pool
from typing import TypeVar

from services.cluster.config import ClusterConfig
from services.sim.config import ImagesConfig, SimConfig, WireConfig
from services.sim.models import ModelSpec
from services.sim.plan import reasons
from services.sim.plan.bounds import Bound
from services.sim.plan.choose import best_of, candidates, finalists, placements
from services.sim.plan.config import HardwareConfig
from services.sim.plan.goodput import Goodput, Objective, Search, Unit, check_lengths, find_goodput
from services.sim.plan.instances import Group, Instance, Refused, encoders, group_of, instances
from services.sim.plan.placement import Aim, Kind, Limits, Placement, pareto, ranked
from services.sim.plan.validate import Scene, Validation, confirmed
from services.sim.plan.workload import Workload
from services.sim.speculation import Speculation, speculating

Progress = Callable[[str, float], None]
"""What is done right now, and the share of the whole."""
LARGE = 256
"""Devices from which only the winner and the baseline are validated, each with few runs."""
SEARCH_SHARE = 0.6
"""Of the progress bar."""
ROUNDS = 4
"""Of validations."""
BETTER, MORE = 1.05, 1.12
"""How much better a placement must look to be validated too; how much more is built for a rate that was not kept."""
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a plan.

    Attributes:
        rate: requests a second that must be taken; None: the trace's own, where the aim needs one.
        config: of the cluster, for everything that the plan does not choose.
        speculation: measured acceptance and price of guesses; None: nobody guesses.
        unit_requests: of one run of one worker, at least.
        full_requests: of one validation of a whole cluster.
    """

    model: ModelSpec
    hardware: HardwareConfig
    workload: Workload
    objective: Objective
    aim: Aim
    rate: float | None
    config: ClusterConfig
    unit_requests: int = 600
    full_requests: int = 2000
    processes: int = 2
    seed: int = 0
    speculation: Speculation | None = None


@dataclass(frozen=True, slots=True)
class Validated:
    """A placement as it was computed, as it was confirmed (rate 0: not at all), and the runs."""

    old: Placement
    new: Placement
    runs: tuple[Validation, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer.

    Attributes:
        winner, baseline: best placement, and best colocated one (None where there is none); validated.
        found: all placements, best first, the validated ones with their validated rates.
        front: whether each of them is on the Pareto front.
        validated: placements that were simulated as clusters.
        goodputs: what every simulated worker can take.
        refused: workers that cannot be built.
        skipped, hopeless: workers that were not simulated: their bound is too low, or they miss the objective alone.
    """

    winner: Placement
    baseline: Placement | None
    found: tuple[Placement, ...]
    front: tuple[bool, ...]
    validated: tuple[Validated, ...]
    goodputs: tuple[Goodput, ...]
    refused: tuple[Refused, ...]
    skipped: int
    hopeless: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class UnitJob:
    """One worker whose goodput is looked for."""

    unit: Unit
    workload: Workload
    objective: Objective
    config: ClusterConfig
    search: Search


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """One placement that is validated."""

    placement: Placement
    scene: Scene
    requests: int
    tries: int
    exact: bool


def run_unit(job: UnitJob) -> Goodput:
    """In a process of its own."""
    return find_goodput(job.unit, job.workload, job.objective, job.config, job.search)


def run_cluster(job: ClusterJob) -> tuple[Placement, tuple[Validation, ...]]:
    """In a process of its own."""
    return confirmed(job.placement, job.scene, job.requests, job.tries, job.exact)


@contextmanager
def workers(processes: int) -> Iterator[Pool | None]:
    """Processes to compute in; None for this one."""
    if processes <= 1:
        yield None
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield pool


def plan(question: Question, progress: Progress = lambda _text, _share: None) -> Plan:
    """Search, choose, validate.

    Raises:
        ConfigError: no placement meets the question; the message names the binding constraint and the nearest choice.
    """
    groups = tuple(map(group_of, question.hardware.groups))
    buildable, refused = instances(question.model, groups)
    reasons.check_fits(question.model, groups, buildable, refused)
    if question.speculation is not None:
        known = question.speculation
        buildable = [speculating(each, known, groups[each.group].device) for each in buildable]
    check_lengths(question.workload, buildable)
    limits = limits_of(question, groups)
    with workers(question.processes) as pool:
        encode = encoders(question.model, groups) if question.workload.pictures is not None else []
        goodputs, skipped, hopeless = _search(question, buildable, encode, pool, progress)
        reasons.check_phases(goodputs, hopeless, question.objective)
        found = placements(goodputs, limits)
        if not found:
            reasons.refuse_rate(placements(goodputs, replace(limits, rate=None)), limits)
        done = _validate(question, limits, goodputs, found, pool, progress)
    good = ranked([each.new for each in done if each.new.rate > 0], limits)
    if not good:
        reasons.refuse_validation([each.runs[-1] for each in done], question.objective)
    failed = [each.old for each in done if not each.new.rate]
    confirmed_of = {id(each.old): each.new for each in done}
    best = ranked([confirmed_of.get(id(each), each) for each in found if each not in failed], limits)
    best += [each for each in good if each not in best]
    return Plan(
        winner=good[0],
        baseline=best_of(good, Kind.COLOCATED),
        found=tuple(best),
        front=tuple(pareto(best)),
        validated=tuple(done),
        goodputs=tuple(goodputs),
        refused=tuple(refused),
        skipped=skipped,
        hopeless=len(hopeless),
        limits=limits,
    )


def limits_of(question: Question, groups: tuple[Group, ...]) -> Limits:
    """What the question allows; a goodput plan takes all that the hardware can, the others the trace's rate."""
    rate = question.rate
    if rate is None and question.aim is not Aim.GOODPUT:
        rate = question.workload.rate
    hardware = question.hardware
    reasons.check_prices(question.aim, groups)
    return Limits(
        groups,
        question.aim,
        rate,
        hardware.between_hosts.gbytes_per_s * 1e9,
        question.workload.mean_prompt * question.model.kv_token_bytes,
        hardware.max_price_per_hour,
        hardware.max_watts,
    )


def _search(
    question: Question, buildable: Sequence[Instance], encode: Sequence[Instance], pool: Pool | None, progress: Progress
) -> tuple[list[Goodput], int, list[tuple[Unit, Bound]]]:
    """Goodput of every worker that is worth it, wave by wave; how many were skipped; which ones are hopeless."""
    waiting = candidates(buildable, question.workload, question.objective, encode)
    total = sum(len(each.waiting) for each in waiting.values())
    hopeless = [each for kept in waiting.values() for each in kept.hopeless]
    reasons.check_alone(
        {phase for (_, phase, _), kept in waiting.items() if kept.waiting}, hopeless, question.objective
    )
    while True:
        jobs, owners = [], []
        for kept in waiting.values():
            for unit, top in kept.next_wave():
                start = min(top.start or top.rate, top.rate)
                search = Search(question.unit_requests, question.seed, start, top.rate, top.constraint)
                jobs.append(UnitJob(unit, question.workload, kept.objective, question.config, search))
                owners.append(kept)
        if not jobs:
            break
        for kept, found in zip(owners, _each(pool, run_unit, jobs), strict=True):
            kept.found.append(found)
            left = sum(len(each.waiting) for each in waiting.values())
            progress(str(found.unit), SEARCH_SHARE * (1 - left / max(total, 1)))
    goodputs = [found for kept in waiting.values() for found in kept.found]
    return goodputs, sum(kept.skipped for kept in waiting.values()), hopeless


def _each(pool: Pool | None, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """Results in the order of the jobs, as soon as they are there."""
    return map(function, jobs) if pool is None else pool.imap(function, jobs)


def _validate(
    question: Question,
    limits: Limits,
    goodputs: Sequence[Goodput],
    found: Sequence[Placement],
    pool: Pool | None,
    progress: Progress,
) -> list[Validated]:
    """Whole clusters of the best of each kind, until the best of what was validated is the best that is known."""
    large = sum(group.devices for group in limits.groups) >= LARGE
    scene = _scene(question, limits.groups)
    done: list[Validated] = []
    waiting = finalists(found, large)
    for round_ in range(ROUNDS):
        tries, exact = (1, False) if limits.rate is not None else (3, False) if large else (6, True)
        jobs = [ClusterJob(_at(each, limits), scene, question.full_requests, tries, exact) for each in waiting]
        for job, old, (new, runs) in zip(jobs, waiting, _each(pool, run_cluster, jobs), strict=True):
            done.append(Validated(old, new, runs))
            text = f"{old}: {runs[-1].attainment:.1%} at {job.placement.rate:.3g}/s"
            progress(text, SEARCH_SHARE + (1 - SEARCH_SHARE) * (round_ + 0.5) / ROUNDS)
        waiting = _next_round(done, found, goodputs, limits, round_)
        if large:
            waiting = waiting[:1] if not any(each.new.rate for each in done) else []
        if not waiting:
            break
    return done


def _at(placement: Placement, limits: Limits) -> Placement:
    """A placement that must take a rate is validated at that rate, whatever it could take."""
    return placement if limits.rate is None else replace(placement, rate=limits.rate)


def _next_round(
    done: Sequence[Validated],
    found: Sequence[Placement],
    goodputs: Sequence[Goodput],
    limits: Limits,
    round_: int,
) -> list[Placement]:
    """What to validate next: with a rate to keep, larger ones of the kinds that failed; else what may be better."""
    if limits.rate is None:
        best = max(each.new.rate for each in done)
        known = [each.old for each in done]
        better = [each for each in found if each not in known and each.rate > best * BETTER]
        return better[:1]
    failed = [each for each in done if each.old.kind not in {one.old.kind for one in done if one.new.rate}]
    more = replace(limits, rate=limits.rate * MORE ** (round_ + 1))
    larger = placements(goodputs, more) if failed else []
    kinds = dict.fromkeys(each.old.kind for each in failed)
    again = [best_of(larger, kind) for kind in kinds]
    return [each for each in again if each is not None]


def _scene(question: Question, groups: tuple[Group, ...]) -> Scene:
    """What every validation shares: the network of the hardware, and a front door that refuses nobody."""
    between = question.hardware.between_hosts
    wire = WireConfig(latency_us=between.latency_us, gbytes_per_s=between.gbytes_per_s)
    sim = SimConfig()
    vision = question.model.vision
    pictures = vision is not None and question.workload.pictures is not None
    images = ImagesConfig(tokens=vision.tokens if vision is not None and pictures else None)
    sim = sim.model_copy(update={"wires": sim.wires.model_copy(update={"rack": wire}), "images": images})
    return Scene(groups, question.workload, question.objective, question.config, sim, question.seed)
