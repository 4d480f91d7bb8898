"""Which workers are worth simulating, in which order, and the placements that follow from what they can take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.sim.plan.bounds import Bound, bound, pictures_ms, prompt_ms
from services.sim.plan.goodput import Goodput, Objective, Unit
from services.sim.plan.instances import Instance
from services.sim.plan.placement import (
    Kind,
    Limits,
    Placement,
    colocated,
    encode_apart,
    in_a_host,
    ranked,
    split,
    with_mixed_pool,
)
from services.sim.plan.solo import Phase
from services.sim.plan.workload import Workload

BUDGETS = {Phase.ENCODE: (2048,), Phase.PREFILL: (2048, 512), Phase.DECODE: (2048,), Phase.COLOCATED: (512, 2048)}
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
        objective: that they must keep.
        found: what was simulated.
        hopeless: that cannot meet the objective even without load.
        skipped: whose bound is below what was found, or that came after the limit of simulations.
    """

    waiting: list[tuple[Unit, Bound]]
    hopeless: list[tuple[Unit, Bound]]
    objective: Objective
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


Key = tuple[int, Phase, bool]
"""Hardware, phase, and whether pictures were encoded elsewhere."""


def candidates(
    found: Sequence[Instance], workload: Workload, objective: Objective, encode: Sequence[Instance] = ()
) -> dict[Key, Candidates]:
    """Every worker in every phase, by hardware and phase, with what it can take at the very most.

    Args:
        encode: workers that encode pictures alone; none: nobody does.
    """
    split_by: dict[Key, Candidates] = {}
    one_stage = [each for each in found if each.stages == 1]
    kinds = [(phase, False, found) for phase in (Phase.PREFILL, Phase.DECODE)]
    # Prompts and decodes of one pipeline get into each other's way; baselines of the papers have one stage, too.
    kinds.append((Phase.COLOCATED, False, one_stage or found))
    if encode:
        kinds += [(Phase.ENCODE, False, encode), (Phase.PREFILL, True, found)]
    for phase, embedded, workers in kinds:
        own = objective
        if embedded or phase is Phase.ENCODE:
            share = encode_share(encode[0], found[0], workload)
            own = part_of(objective, share if phase is Phase.ENCODE else 1 - share, phase)
        for instance in workers:
            kept = split_by.setdefault((instance.group, phase, embedded), Candidates([], [], own))
            for budget in BUDGETS[phase]:
                unit = Unit(phase, instance, budget, embedded)
                top = bound(unit, workload, own)
                (kept.waiting if top.rate else kept.hopeless).append((unit, top))
    for kept in split_by.values():
        # Larger workers are slower to simulate, and seldom better for the devices that they take.
        kept.waiting.sort(key=lambda each: each[0].instance.devices)
    return split_by


def encode_share(encoder: Instance, prefill: Instance, workload: Workload) -> float:
    """Of the time to the first token, what encoding takes without load: one picture of a request on each encode worker,
    a worker of one device for the prompt."""
    encode = pictures_ms(encoder.cost, 1, workload)
    prompt = prompt_ms(prefill.cost, max(1, int(workload.mean_prompt)), BUDGETS[Phase.PREFILL][0])[0]
    return encode / (encode + prompt)


def part_of(objective: Objective, share: float, phase: Phase) -> Objective:
    """What one of the two stages before the first token must keep."""
    overhead = 0.0 if phase is Phase.ENCODE else objective.overhead_ms
    return replace(objective, ttft_ms=share * objective.ttft_ms, overhead_ms=overhead)


def placements(found: Sequence[Goodput], limits: Limits) -> list[Placement]:
    """Every placement of what was found, best first; those of one kind and the same workers are not told apart."""
    usable = [each for each in found if each.rate > 0]
    by_phase = {
        phase: [each for each in usable if each.unit.phase is phase and not each.unit.embedded] for phase in Phase
    }
    embedded = [each for each in usable if each.unit.embedded]
    built: list[Placement | None] = [colocated(each, limits) for each in by_phase[Phase.COLOCATED]]
    for prefill in by_phase[Phase.PREFILL]:
        for decode in by_phase[Phase.DECODE]:
            apart = split(prefill, decode, limits)
            built.append(apart)
            if limits.groups[prefill.unit.instance.group].hosts > 1:
                built.append(in_a_host(prefill, decode, limits))
    for encode in by_phase[Phase.ENCODE]:
        for prefill in embedded:
            built += [encode_apart(encode, prefill, decode, limits) for decode in by_phase[Phase.DECODE]]
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
        kept += [apart, best_of(found, Kind.MIXED_POOL), best_of(found, Kind.ENCODE_APART)]
    kept.append(best_of(found, Kind.COLOCATED))
    return list(dict.fromkeys(each for each in kept if each is not None))
