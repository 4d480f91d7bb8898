"""Which workers are worth simulating, in which order, and the placements that follow from what they can take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.sim.plan.bounds import Bound, bound
from services.sim.plan.goodput import Goodput, Objective, Unit
from services.sim.plan.instances import Instance
from services.sim.plan.placement import (
    Kind,
    Limits,
    Placement,
    colocated,
    in_a_host,
    ranked,
    split,
    with_mixed_pool,
)
from services.sim.plan.solo import Phase
from services.sim.plan.workload import Workload

BUDGETS = {Phase.PREFILL: (2048, 512), Phase.DECODE: (2048,), Phase.COLOCATED: (512, 2048)}
"""Token budgets that are tried: 512 saturates an A100 at 13B (DistServe), throughput falls beyond 2048 (Splitwise)."""
WORTH = 1.05
"""A worker is simulated when its bound for each device is that much above the best that was found."""
AT_ONCE = 2
MOST_EACH = 8
SHOWN = 12


@dataclass(slots=True)
class Candidates:
    """Workers of one phase on one kind of hardware, smallest first.

    Attributes:
        waiting: with their bounds.
        found: what was simulated.
        hopeless: that cannot meet the objective even without load.
        skipped: whose bound is below what was found, or that came after the limit of simulations.
    """

    waiting: list[tuple[Unit, Bound]]
    hopeless: list[tuple[Unit, Bound]]
    found: list[Goodput] = field(default_factory=list)
    skipped: int = 0

    def next_wave(self) -> list[tuple[Unit, Bound]]:
        """The next ones to simulate; none when no other can be better."""
        best = max((each.per_device for each in self.found), default=0.0)
        wave: list[tuple[Unit, Bound]] = []
        while self.waiting and len(wave) < AT_ONCE:
            unit, top = self.waiting.pop(0)
            enough = len(self.found) + len(wave) >= MOST_EACH
            if enough or top.rate / unit.instance.devices < WORTH * best:
                self.skipped += 1
            else:
                wave.append((unit, top))
        return wave


def candidates(
    found: Sequence[Instance], workload: Workload, objective: Objective
) -> dict[tuple[int, Phase], Candidates]:
    """Every worker in every phase, by hardware and phase, with what it can take at the very most."""
    split_by: dict[tuple[int, Phase], Candidates] = {}
    one_stage = [each for each in found if each.stages == 1]
    for phase in Phase:
        # Prompts and decodes of one pipeline get into each other's way; baselines of the papers have one stage, too.
        for instance in one_stage if one_stage and phase is Phase.COLOCATED else found:
            kept = split_by.setdefault((instance.group, phase), Candidates([], []))
            for budget in BUDGETS[phase]:
                unit = Unit(phase, instance, budget)
                top = bound(unit, workload, objective)
                (kept.waiting if top.rate else kept.hopeless).append((unit, top))
    for kept in split_by.values():
        # Larger workers are slower to simulate, and seldom better for the devices that they take.
        kept.waiting.sort(key=lambda each: each[0].instance.devices)
    return split_by


def placements(found: Sequence[Goodput], limits: Limits) -> list[Placement]:
    """Every placement of what was found, best first; those of one kind and the same workers are not told apart."""
    usable = [each for each in found if each.rate > 0]
    by_phase = {phase: [each for each in usable if each.unit.phase is phase] for phase in Phase}
    built: list[Placement | None] = [colocated(each, limits) for each in by_phase[Phase.COLOCATED]]
    for prefill in by_phase[Phase.PREFILL]:
        for decode in by_phase[Phase.DECODE]:
            apart = split(prefill, decode, limits)
            built.append(apart)
            if limits.groups[prefill.unit.instance.group].hosts > 1:
                built.append(in_a_host(prefill, decode, limits))
    good = [each for each in built if each is not None]
    if limits.rate is None:
        spare = _best_each(by_phase[Phase.COLOCATED])
        mixed = [with_mixed_pool(each, spare, limits) for each in good if each.kind is Kind.SPLIT]
        good += [each for each in mixed if each is not None]
    return ranked(good, limits)


def _best_each(found: Sequence[Goodput]) -> list[Goodput]:
    """The best colocated worker of each hardware, for the devices that it takes."""
    best: dict[int, Goodput] = {}
    for each in found:
        group = each.unit.instance.group
        if group not in best or each.per_device > best[group].per_device:
            best[group] = each
    return list(best.values())


def best_of(found: Sequence[Placement], *kinds: Kind) -> Placement | None:
    """The first of the given kinds in a ranked list."""
    return next((each for each in found if each.kind in kinds), None)


def finalists(found: Sequence[Placement], large: bool) -> list[Placement]:
    """The best of each kind; placements inside hosts only where the network binds the others, or nothing else fits.

    Args:
        large: only the best of all, and the best colocated one.
    """
    apart = best_of(found, Kind.SPLIT)
    inside = apart is None or apart.binding == "network"
    if large:
        kept = [best_of(found, *(kind for kind in Kind if inside or kind is not Kind.IN_A_HOST))]
    else:
        kept = [best_of(found, Kind.IN_A_HOST)] if inside else []
        kept += [apart, best_of(found, Kind.MIXED_POOL)]
    kept.append(best_of(found, Kind.COLOCATED))
    return list(dict.fromkeys(each for each in kept if each is not None))
