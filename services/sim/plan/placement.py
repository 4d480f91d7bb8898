"""Placements: which workers a cluster is made of, what it takes and what it costs.

colocated    every worker computes prompts and decodes, in mixed steps with chunked prefill: the baseline
split        prefill and decode workers anywhere (DistServe algorithm 1; Splitwise where the hardware differs)
in a host    both in one host, so that KV stays on its links; the unit is replicated (DistServe algorithm 2)
mixed pool   split, and devices that are left over compute both (Splitwise)
encode apart split, and pictures are encoded by workers of their own (EPD); elsewhere prefill workers encode, too
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from services.sim.plan.goodput import Goodput
from services.sim.plan.instances import Group, Instance

PORT_SHARE = 0.8
"""Of a host's port that hand-offs may take on average; above it they queue."""
MANY = 1_000_000


class Kind(StrEnum):
    """How the phases are placed."""

    COLOCATED = "colocated"
    SPLIT = "split"
    IN_A_HOST = "in a host"
    MIXED_POOL = "mixed pool"
    ENCODE_APART = "encode apart"


class Aim(StrEnum):
    """What is best."""

    GOODPUT = "goodput"  # the highest rate that the hardware takes
    COST = "cost"  # the lowest price that takes the rate
    POWER = "power"  # the fewest watts that take the rate


@dataclass(frozen=True, slots=True)
class PlanPool:
    """Equal workers of a placement; goodput is that of one."""

    role: str
    instance: Instance
    replicas: int
    goodput: Goodput

    @property
    def devices(self) -> int:
        """Of all its workers."""
        return self.replicas * self.instance.devices

    def __str__(self) -> str:
        return f"{self.replicas} {self.role} {self.instance}"


@dataclass(frozen=True, slots=True)
class Placement:
    """One way to serve the traffic.

    Attributes:
        pools: of one cluster; `copies` of it share the traffic evenly.
        max_batch_tokens: token budget of all its workers.
        rate: requests a second that all copies take within the objective.
        binding: what bounds it: ttft, tpot, memory, network, devices, price or power.
        watts, price: of all copies; price None where nobody said one.
        ttft_p99_ms, tpot_p99_ms: at that rate, of the workers that were simulated.
    """

    kind: Kind
    pools: tuple[PlanPool, ...]
    copies: int
    max_batch_tokens: int
    rate: float
    binding: str
    devices: int
    watts: float
    price: float | None
    ttft_p99_ms: float
    tpot_p99_ms: float

    @property
    def per_device(self) -> float:
        """Requests a second for each device."""
        return self.rate / self.devices

    @property
    def per_price(self) -> float:
        """Requests for one unit of price; 0 where nobody said a price."""
        return 3600 * self.rate / self.price if self.price else 0.0

    @property
    def joules(self) -> float:
        """Energy of a request, at the highest power."""
        return self.watts / self.rate if self.rate else math.inf

    def __str__(self) -> str:
        copies = f"{self.copies} × " if self.copies > 1 else ""
        pools = " + ".join(map(str, self.pools))
        return f"{copies}({pools})" if self.copies > 1 and len(self.pools) > 1 else f"{copies}{pools}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a placement may use, and what it is for.

    Attributes:
        rate: requests a second that it must take; None: as many as the hardware can.
        port_bytes_per_s: of a host, for hand-offs.
        handoff_bytes: KV of a mean prompt.
    """

    groups: tuple[Group, ...]
    aim: Aim
    rate: float | None
    port_bytes_per_s: float
    handoff_bytes: float
    max_price: float | None = None
    max_watts: float | None = None


def make(
    kind: Kind, pools: Sequence[PlanPool], copies: int, rate: float, binding: str, limits: Limits
) -> Placement | None:
    """The placement with its accounts; None when a budget is too small for it."""
    prices = [limits.groups[pool.instance.group].price for pool in pools]
    devices = copies * sum(pool.devices for pool in pools)
    watts = copies * sum(pool.devices * limits.groups[pool.instance.group].watts for pool in pools)
    price = None
    if all(each is not None for each in prices):
        price = copies * sum(pool.devices * (each or 0.0) for pool, each in zip(pools, prices, strict=True))
    if (limits.max_watts and watts > limits.max_watts) or (limits.max_price and (price or 0.0) > limits.max_price):
        return None
    budgets = [pool.goodput.unit.max_batch_tokens for pool in pools if pool.role != "decode"]
    ttft = max((pool.goodput.at.ttft_p99_ms for pool in pools if pool.role != "decode"), default=0.0)
    tpot = max((pool.goodput.at.tpot_p99_ms for pool in pools if pool.role != "prefill"), default=0.0)
    return Placement(kind, tuple(pools), copies, max(budgets), rate, binding, devices, watts, price, ttft, tpot)


# ------------------------------------------------------------------ colocated


def colocated(each: Goodput, limits: Limits) -> Placement | None:
    """As many equal workers as the aim asks for."""
    instance = each.unit.instance
    group = limits.groups[instance.group]
    most = _affordable(_most(instance, group), instance, limits)
    count = most if limits.rate is None else math.ceil(limits.rate / each.rate)
    if not 0 < count <= most:
        return None
    pool = PlanPool("colocated", instance, count, each)
    return make(Kind.COLOCATED, [pool], 1, count * each.rate, each.binding, limits)


def _most(instance: Instance, group: Group) -> int:
    """Workers that the group's hosts hold."""
    per_host = group.device.per_host
    if instance.devices <= per_host:
        return group.hosts * (per_host // instance.devices)
    return group.hosts // instance.stages * max(1, per_host // instance.tp)


def _affordable(most: int, instance: Instance, limits: Limits, beside: Instance | None = None, others: int = 0) -> int:
    """The same, within the budgets; `others` workers are there already."""
    group = limits.groups[instance.group]
    other = limits.groups[beside.group] if beside is not None else group
    taken = others * beside.devices if beside is not None else 0
    budgets = ((limits.max_price, group.price, other.price), (limits.max_watts, group.watts, other.watts))
    for budget, each, each_other in budgets:
        if budget and each:
            most = min(most, int((budget - taken * (each_other or 0.0)) / (each * instance.devices) + 1e-9))
    return most


# ------------------------------------------------------------------ DistServe algorithm 1, Splitwise pools


def split(prefill: Goodput, decode: Goodput, limits: Limits) -> Placement | None:
    """Both phases sized apart; where their devices are the same, they share them."""
    p, d = prefill.unit.instance, decode.unit.instance
    p_rate, network = _sendable(prefill, limits)
    best: Placement | None = None
    most_d = _most(d, limits.groups[d.group])
    if limits.rate is not None:
        counts = [math.ceil(limits.rate / decode.rate)]
    else:
        counts = _counts(most_d)
    for count_d in counts:
        left = _left_for(p, d, count_d, limits)
        wanted = math.ceil((limits.rate if limits.rate is not None else count_d * decode.rate) / p_rate)
        count_p = min(wanted, _affordable(left, p, limits, d, count_d))
        if count_p < 1 or count_d > most_d:
            continue
        prompts, tokens = count_p * p_rate, count_d * decode.rate
        binding = decode.binding if tokens <= prompts else ("network" if network else prefill.binding)
        pools = [PlanPool("prefill", p, count_p, prefill), PlanPool("decode", d, count_d, decode)]
        found = make(Kind.SPLIT, pools, 1, min(prompts, tokens), binding, limits)
        if found is not None and (limits.rate is None or found.rate >= limits.rate) and _beats(found, best):
            best = found
    return best


def _counts(most: int) -> list[int]:
    """All counts up to a thousand, then a thousand of them."""
    return (
        sorted({max(1, round(most * step / 1000)) for step in range(1, 1001)})
        if most > 1000
        else list(range(1, most + 1))
    )


def _left_for(p: Instance, d: Instance, count_d: int, limits: Limits) -> int:
    """Prefill workers that there is room for beside so many decode workers."""
    group = limits.groups[p.group]
    if p.group != d.group:
        return _most(p, group)
    per_host = group.device.per_host
    if d.devices > per_host or p.devices > per_host:
        return (group.devices - count_d * d.devices) // p.devices
    full, rest = divmod(count_d, per_host // d.devices)
    left = (group.hosts - full - (rest > 0)) * (per_host // p.devices)
    return left + ((per_host - rest * d.devices) // p.devices if rest else 0)


def _sendable(prefill: Goodput, limits: Limits) -> tuple[float, bool]:
    """Rate of one prefill worker whose KV leaves its host, and whether the port bounds it."""
    p = prefill.unit.instance
    group = limits.groups[p.group]
    if len(limits.groups) == 1 and group.hosts == 1:
        return prefill.rate, False
    beside = max(1, group.device.per_host // p.devices)
    hosts = max(1, math.ceil(p.devices / group.device.per_host))
    port = PORT_SHARE * limits.port_bytes_per_s * hosts / (beside * limits.handoff_bytes)
    return (port, True) if port < prefill.rate else (prefill.rate, False)


def _beats(found: Placement, best: Placement | None) -> bool:
    """More traffic, or the same with fewer devices."""
    return best is None or (found.rate, -found.devices) > (best.rate, -best.devices)


def with_mixed_pool(base: Placement, spare: Sequence[Goodput], limits: Limits) -> Placement | None:
    """Devices that a split placement leaves over compute both phases."""
    pools, rate = list(base.pools), base.rate
    for each in spare:
        instance = each.unit.instance
        group = limits.groups[instance.group]
        used = sum(pool.devices for pool in pools if pool.instance.group == instance.group)
        count = (group.devices - used) // instance.devices
        if count >= 1 and instance.devices <= group.device.per_host:
            pools.append(PlanPool("mixed", instance, count, each))
            rate += count * each.rate
    return make(Kind.MIXED_POOL, pools, 1, rate, base.binding, limits) if len(pools) > len(base.pools) else None


# ------------------------------------------------------------------ EPD


def encode_apart(encode: Goodput, prefill: Goodput, decode: Goodput, limits: Limits) -> Placement | None:
    """The three stages sized apart: the highest rate whose workers the devices suffice for (EPD, section 3.2)."""
    stages = {"encode": encode, "prefill": prefill, "decode": decode}
    rates = [limits.rate] if limits.rate is not None else _rates(list(stages.values()), limits)
    p_rate, network = _sendable(prefill, limits)
    most = {"encode": encode.rate, "prefill": p_rate, "decode": decode.rate}
    for rate in rates:
        counts = {role: max(1, math.ceil(rate / most[role] - 1e-9)) for role in stages}
        pools = [PlanPool(role, each.unit.instance, counts[role], each) for role, each in stages.items()]
        if not _fit(pools, limits):
            continue
        tightest = min(stages, key=lambda role: counts[role] * most[role])
        kept = min(counts[role] * most[role] for role in stages)
        binding = "network" if network and tightest == "prefill" else stages[tightest].binding
        found = make(Kind.ENCODE_APART, pools, 1, kept if limits.rate is None else rate, binding, limits)
        if found is not None:
            return found
    return None


def _rates(stages: Sequence[Goodput], limits: Limits) -> list[float]:
    """Rates that one of the stages takes with all its workers, highest first."""
    found: set[float] = set()
    for each in stages:
        instance = each.unit.instance
        found |= {count * each.rate for count in _counts(_most(instance, limits.groups[instance.group]))}
    return sorted(found, reverse=True)


def _fit(pools: Sequence[PlanPool], limits: Limits) -> bool:
    """Whether the hosts of every group hold its workers, the largest ones placed first."""
    for place, group in enumerate(limits.groups):
        per_host = group.device.per_host
        free = group.devices
        for pool in sorted(pools, key=lambda each: -each.instance.devices):
            if pool.instance.group != place:
                continue
            size = pool.instance.devices
            if size <= per_host and pool.replicas > free // per_host * (per_host // size) + free % per_host // size:
                return False
            free -= pool.devices
        if free < 0:
            return False
    return True


# ------------------------------------------------------------------ DistServe algorithm 2


def in_a_host(prefill: Goodput, decode: Goodput, limits: Limits) -> Placement | None:
    """Workers of both phases that share a host, or whose stages do, pair by pair; one unit, replicated.

    The best numbers of both for the devices that they take; workers with more stages than a host holds stand stage
    beside stage, one of each.
    """
    p, d = prefill.unit.instance, decode.unit.instance
    if p.group != d.group:
        return None
    group = limits.groups[p.group]
    per_host = group.device.per_host
    units: list[tuple[float, int, int, int]] = []  # rate per device, prefill workers, decode workers, units
    if p.devices + d.devices <= per_host:
        for count_d in range(1, (per_host - p.devices) // d.devices + 1):
            for count_p in range(1, (per_host - count_d * d.devices) // p.devices + 1):
                size = count_p * p.devices + count_d * d.devices
                rate = min(count_p * prefill.rate, count_d * decode.rate)
                units.append((rate / size, -count_p, -count_d, group.hosts * (per_host // size)))
    elif p.stages == d.stages and p.tp + d.tp <= per_host and p.stages <= group.hosts:
        rate = min(prefill.rate, decode.rate)
        beside = per_host // (p.tp + d.tp)
        units.append((rate / (p.devices + d.devices), -1, -1, group.hosts // p.stages * beside))
    best: Placement | None = None
    for each, negative_p, negative_d, most in sorted(units, reverse=True):
        pools = [PlanPool("prefill", p, -negative_p, prefill), PlanPool("decode", d, -negative_d, decode)]
        rate = each * sum(pool.devices for pool in pools)
        copies = most if limits.rate is None else math.ceil(limits.rate / rate)
        prompts, tokens = -negative_p * prefill.rate, -negative_d * decode.rate
        binding = prefill.binding if prompts < tokens else decode.binding
        if 0 < copies <= most:
            found = make(Kind.IN_A_HOST, pools, copies, copies * rate, binding, limits)
            if found is not None and (best is None or _order(found, limits) < _order(best, limits)):
                best = found
    return best


# ------------------------------------------------------------------ the choice


def _order(placement: Placement, limits: Limits) -> tuple[float, ...]:
    """Lower is better; ties go to fewer devices, then to the higher rate."""
    first = {
        Aim.GOODPUT: -placement.rate if limits.rate is None else placement.devices,
        Aim.COST: placement.price if placement.price is not None else math.inf,
        Aim.POWER: placement.watts,
    }[limits.aim]
    return first, placement.devices, -placement.rate


def ranked(found: Sequence[Placement], limits: Limits) -> list[Placement]:
    """Best first by the aim."""
    return sorted(found, key=lambda each: _order(each, limits))


def pareto(found: Sequence[Placement]) -> list[bool]:
    """Whether each is on the front: no other is at least as good in all of goodput per device, price and energy of a
    request, and both tails, and better in one."""

    def scores(each: Placement) -> tuple[float, ...]:
        price = each.price / each.rate if each.price is not None else 0.0
        return -each.per_device, price, each.joules, each.ttft_p99_ms, each.tpot_p99_ms

    all_scores = [scores(each) for each in found]
    return [
        not any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in all_scores)
        for mine in all_scores
    ]


def scaled(placement: Placement, rate: float, binding: str) -> Placement:
    """The same placement with a rate that was simulated instead of computed."""
    return replace(placement, rate=rate, binding=binding)
