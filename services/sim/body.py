"""What a simulated worker's process is made of, and what it did."""

from __future__ import annotations

from dataclasses import dataclass

from services.sim.cores import Cores
from services.sim.cost_model import CostModel
from services.sim.network import Place


@dataclass(slots=True)
class Use:
    """What a worker did: time in steps, steps, tokens of prompts, decoded tokens, and most blocks in use at once."""

    busy_ns: int = 0
    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    peak_blocks: int = 0


@dataclass(frozen=True, slots=True)
class Body:
    """What a worker's process is made of.

    Attributes:
        pool: launch pool.
        roles: stages of it.
        cost: of its steps.
        block_bytes: KV of one block, over all ranks.
        place: where it is.
        cores: of its host, which it shares; None: it computes on a device of its own.
        threads: cores of its own.
        report_ns: longest time without a report.
        fast: pass over steady steps.
        check: assert every invariant after each event.
        doors: front doors that it reports to.
    """

    pool: str
    roles: tuple[str, ...]
    cost: CostModel
    block_bytes: int
    place: Place
    cores: Cores | None
    threads: int
    report_ns: int
    fast: bool
    check: bool
    doors: tuple[str, ...] = ("door",)
