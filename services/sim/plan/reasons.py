"""Why a plan is impossible and what is nearest to it; why a placement wins."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NoReturn

from services.core.cost import expected_tokens
from services.core.errors import ConfigError
from services.sim.cost_model import StepShape
from services.sim.models import MODELS, ModelSpec
from services.sim.plan.bounds import Bound
from services.sim.plan.goodput import Goodput, Objective, Unit
from services.sim.plan.instances import Group, Instance, Refused, fewest_devices
from services.sim.plan.placement import Aim, Limits, Placement
from services.sim.plan.solo import Phase
from services.sim.plan.validate import Validation
from services.sim.plan.workload import Workload
from services.sim.speculation import Speculating

NAMES = {
    "ttft": "the bound on the time to first token",
    "tpot": "the bound on the time per token",
    "memory": "memory for KV",
    "network": "the port of a host, which KV leaves through",
    "compute": "how many prompts a worker can compute at all",
}


# ------------------------------------------------------------------ impossible plans


def check_fits(
    model: ModelSpec, groups: Sequence[Group], found: Sequence[Instance], refused: Sequence[Refused]
) -> None:
    """Hold that some worker can be built.

    Raises:
        ConfigError: none can; names what binds, and the hardware or the model that would do.
    """
    if found:
        return
    other = [each for each in refused if each.constraint != "memory"]
    if other:
        raise ConfigError("--hardware", other[0].device, other[0].why)
    have = ", ".join(f"{group.hosts} hosts of {group.device.per_host} × {group.name}" for group in groups)
    need = " or ".join(f"{fewest_devices(model, group)} × {group.name}" for group in groups)
    smaller = [
        each
        for each in MODELS.values()
        if each.total_bytes < model.total_bytes
        and any(fewest_devices(each, group) <= group.devices for group in groups)
    ]
    nearest = max(smaller, key=lambda each: each.total_bytes, default=None)
    instead = f"; of the known models {nearest.name} fits" if nearest is not None else ""
    raise ConfigError(
        "--model",
        model.name,
        f"memory binds: its weights take {model.total_bytes / 1e9:.0f} GB, and {have} cannot hold them with any tensor "
        f"and pipeline parallelism; the nearest that can is {need} a worker{instead}",
    )


def check_prices(aim: Aim, groups: Sequence[Group]) -> None:
    """Hold that everything has a price where the cost is the aim.

    Raises:
        ConfigError: a group has none.
    """
    for place, group in enumerate(groups):
        if aim is Aim.COST and not group.price:
            raise ConfigError(
                f"groups.{place}.price_per_hour", group.price, f"--objective cost needs what a {group.name} costs"
            )


def check_alone(hopeful: Collection[Phase], hopeless: Sequence[tuple[Unit, Bound]], objective: Objective) -> None:
    """Hold that some worker meets the objective without load in each phase, or in both at once.

    Raises:
        ConfigError: none does; names the bound, and the nearest value that one would meet.
    """
    _check_phases(hopeful, [], hopeless, objective)


def check_phases(found: Sequence[Goodput], hopeless: Sequence[tuple[Unit, Bound]], objective: Objective) -> None:
    """The same of what was simulated.

    Raises:
        ConfigError: no worker meets the objective.
    """
    good = [each.unit.phase for each in found if each.rate > 0]
    _check_phases(good, found, hopeless, objective)


def _check_phases(
    good: Collection[Phase],
    found: Sequence[Goodput],
    hopeless: Sequence[tuple[Unit, Bound]],
    objective: Objective,
) -> None:
    if Phase.COLOCATED in good or (Phase.PREFILL in good and Phase.DECODE in good):
        return
    phase = Phase.PREFILL if Phase.PREFILL not in good else Phase.DECODE
    name, asked = ("ttft", objective.ttft_ms) if phase is Phase.PREFILL else ("tpot", objective.tpot_ms)
    alone = [(top.alone_ms, str(unit.instance)) for unit, top in hopeless if unit.phase is phase]
    tails = [
        (each.at.ttft_p99_ms if name == "ttft" else each.at.tpot_p99_ms, str(each.unit.instance))
        for each in found
        if each.unit.phase is phase
    ]
    nearest, where = min(tails or alone)
    raise ConfigError(
        "--slo",
        f"{name}={asked:g}ms",
        f"{NAMES[name]} binds: no placement meets it for {objective.attainment:.0%} of the requests, not even without "
        f"load; the nearest is {nearest:.3g} ms, on {where}: write {name}={_round_up(nearest)}ms, or give faster "
        "hardware",
    )


def _round_up(value: float) -> int:
    """To two digits, upwards."""
    step = 10 ** max(0, len(str(int(value))) - 2)
    return int(-(-value // step) * step)


def refuse_rate(any_rate: Sequence[Placement], limits: Limits) -> NoReturn:
    """No placement takes the rate, or fits into the budgets.

    Raises:
        ConfigError: always; names the highest rate that the hardware takes.
    """
    budget = limits.max_price or limits.max_watts
    if not any_rate:
        raise ConfigError(
            "max_price_per_hour" if limits.max_price else "max_watts" if limits.max_watts else "--hardware",
            budget if budget else sum(group.devices for group in limits.groups),
            "no placement is small enough for it: raise it to what one prefill and one decode worker take",
        )
    best = max(any_rate, key=lambda each: each.rate)
    what = "the budget binds" if budget else "the number of devices binds"
    raise ConfigError(
        "--rate",
        limits.rate,
        f"{what}: the highest rate that this hardware takes is {best.rate:.3g} requests/s, by {best}; ask for at most "
        f"that, or give {(limits.rate or 0.0) / best.rate:.2g} times as much hardware",
    )


def refuse_validation(runs: Sequence[Validation], objective: Objective) -> NoReturn:
    """Workers alone met the objective, whole clusters did not, at any rate that was tried.

    Raises:
        ConfigError: always.
    """
    best = max(runs, key=lambda run: run.attainment)
    name, asked, seen = (
        ("ttft", objective.ttft_ms, best.ttft_p90_ms)
        if best.ttft_attainment < best.tpot_attainment
        else ("tpot", objective.tpot_ms, best.tpot_p90_ms)
    )
    raise ConfigError(
        "--slo",
        f"{name}={asked:g}ms",
        f"{NAMES[name]} binds: single workers meet it, but the best whole cluster only for {best.attainment:.1%} of "
        f"the requests at {best.rate:.3g}/s; its 90 % quantile is {seen:.3g} ms: ask for that, or for a lower rate",
    )


# ------------------------------------------------------------------ why the winner wins


def why(winner: Placement, baseline: Placement | None, found: Sequence[Placement], aim: Aim) -> list[str]:
    """Sentences: what bounds each pool of the winner, and what it has before the baseline and the next one."""
    lines = []
    for pool in winner.pools:
        found_alone = pool.goodput
        lines.append(
            f"{pool}: each takes {found_alone.rate:.3g} requests/s alone ({found_alone.per_device:.3g} a device), "
            f"bound by {NAMES.get(found_alone.binding, found_alone.binding)}."
        )
    lines.append(f"The whole is bound by {NAMES.get(winner.binding, winner.binding)}.")
    if baseline is None:
        lines.append("No colocated placement keeps both bounds: prompts delay the decodes beside them too much.")
    elif baseline is not winner:
        lines.append(f"Against the best colocated placement ({baseline}): {_against(winner, baseline)}.")
        lines.append(_interference(winner, baseline))
    else:
        lines.append("A colocated placement wins: what splitting the phases saves is less than what it leaves idle.")
    second = next((each for each in found if each is not winner and each is not baseline), None)
    if second is not None:
        lines.append(f"Against the next placement ({second}): {_against(winner, second)}.")
    return lines


def _against(one: Placement, other: Placement) -> str:
    parts = [f"{one.per_device / other.per_device:.2f} times the goodput of a device"]
    if one.price and other.price:
        parts.append(f"{(one.price / one.rate) / (other.price / other.rate):.2f} times its cost of a request")
    parts.append(f"{one.joules / other.joules:.2f} times its energy of a request")
    return ", ".join(parts)


def _interference(winner: Placement, baseline: Placement) -> str:
    """What the colocated worker's own bound says about why it takes less."""
    binding = NAMES.get(baseline.binding, baseline.binding)
    prefill = next((pool for pool in winner.pools if pool.role == "prefill"), None)
    decode = next((pool for pool in winner.pools if pool.role == "decode"), None)
    if prefill is None or decode is None:
        return f"The baseline is bound by {binding}."
    return (
        f"The baseline is bound by {binding}: each of its steps mixes prompts and decodes. Split, prefill runs as "
        f"{prefill.instance} and decode as {decode.instance}, each with the parallelism that suits it."
    )


def guesses(winner: Placement, workload: Workload) -> list[str]:
    """What speculation brings the winner's decodes at its own rate; nothing where nobody guesses."""
    lines = []
    for pool in winner.pools:
        cost, alone = pool.instance.cost, pool.goodput
        if not isinstance(cost, Speculating) or pool.role == "prefill":
            continue
        rows = max(1, round(alone.rate * max(workload.mean_output - 1, 0) * alone.at.tpot_p50_ms / 1000))
        context = int(rows * (workload.mean_prompt + workload.mean_output / 2))
        shape = StepShape(0, 0, 0.0, 0, rows, context)
        gamma = cost.gamma(rows, context)
        if not gamma:
            lines.append(f"Speculation does not pay on {pool}: {rows} decodes a step leave no work to spare; gamma 0.")
            continue
        gain = cost.inner.step(shape).busy_ns / cost.step(shape).busy_ns
        lines.append(
            f"Speculation on {pool}: with {rows} decodes a step gamma is {gamma}, "
            f"{expected_tokens(cost.acceptance, gamma):.2f} tokens a step, each {gain:.2f} times as fast as without."
        )
    return lines
