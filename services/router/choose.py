"""Which pair of workers: the least work and harm, all in ms, with a penalty for missed objectives.

    TTFT(p)   = overhead + wait + prefill(n - h, h)                wait = queue in ms - time since the report
    ITL(d)    = decode step of its rows, those on their way there, and this one
    cost      = TTFT + w prefill  +  hand-off(p, d)  +  wait for blocks + ITL + l harm of a step to the others
              + a penalty that grows with the share by which an objective is missed

The formulas are those of Mooncake's conductor (TTFT), Dynamo's router (blocks) and PolyServe (pack). Each stage's cost
depends on one worker, and the hand-off's on whether both are on one host, so that the best pair is either the best of
all of each stage, or the best of each on one host: every pair is covered by one look at every worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from services.core.clock import NS_PER_MS, NS_PER_S
from services.router.config import RouterConfig
from services.router.decision import Decision
from services.router.fleet import Fleet, Row
from services.router.predict import Predictor

MISSED_MS = 1e5
"""Cost of missing an objective by its whole length: above everything that is not missed."""
AVOIDED_MS = 1e9
"""Cost of a worker that is taken only when there is no other."""
TURN_MS = 1e-9
"""Cost of a turn: equal workers take turns."""
FRESH_MS = 1000.0
"""Age up to which a report is believed to have been worked off since; beyond, it makes the prediction worse."""


@dataclass(slots=True)
class Question:
    """What is to be placed.

    Attributes:
        tokens: to be computed, prefix hits included.
        hits: cached tokens by number of a row that has a part of the prefix.
        output_tokens: expected; `output_bound`: hardly exceeded.
        ttft_ms, tpot_ms: objectives, infinite where there are none.
        refused: numbers of rows that are no candidates; `avoided`: of rows for want of others.
        local: the decode worker may compute the prompt: "" no, `fallback` without a prefill worker, `cheaper`.
    """

    tokens: int
    hits: dict[int, int]
    output_tokens: int
    output_bound: int
    ttft_ms: float
    tpot_ms: float
    refused: frozenset[int] = frozenset()
    avoided: frozenset[int] = frozenset()
    local: str = "never"


First = tuple[float, int, Row, float, float, float]
"""The prefill stage on one worker: cost, number, row, wait, prefill, TTFT. Tuples, as many are made for a request."""
Second = tuple[float, int, Row, float, float]
"""The decode stage on one worker: cost, number, row, ITL, wait for blocks."""


@dataclass(slots=True)
class Choice:
    """Two stages on one worker or two."""

    cost: float
    first: First
    second: Second
    path: str = "handoff"
    transfer: float = 0.0
    candidates: tuple[int, int] = field(default=(0, 0))


class Chooser:
    """The choice, and the prediction that it rests on.

    Args:
        block_size: tokens in a KV block.
    """

    def __init__(self, config: RouterConfig, block_size: int) -> None:
        self._config, self._placement, self._block_size = config, config.predicted, block_size
        self._stale_ns = int(config.stale_report_s * NS_PER_S)
        self._safety = config.objectives.safety

    def choose(self, now: int, fleet: Fleet, predictor: Predictor, question: Question) -> Decision | None:
        """The best pair; None when a stage has no candidate."""
        firsts = self._firsts(now, self._rows(now, fleet, fleet.computing, question), predictor, question)
        seconds = self._seconds(self._rows(now, fleet, fleet.decoding, question), predictor, question)
        best = self._best_pair(predictor, question, firsts, seconds)
        alone, num_both = self._best_alone(now, fleet, predictor, question, seconds, best is None)
        if alone is not None and (best is None or alone.cost < best.cost):
            if "prefill" in alone.second[2].roles:
                alone.path = "colocated"
            else:
                alone.path = "local_prefill/" + ("no_prefill_worker" if best is None else "cheaper")
            best = alone
        if best is None:
            return None
        best.candidates = len(firsts) + num_both, len(seconds)
        return self._decision(predictor, question, best)

    def _rows(self, now: int, fleet: Fleet, rows: list[Row], question: Question) -> list[Row]:
        """Those that reported lately and are not refused."""
        since, refused = now - self._stale_ns + 1, question.refused
        if not refused and fleet.heard(since):
            return rows
        return [row for row in rows if row.reported_ns >= since and row.number not in refused]

    def _firsts(self, now: int, rows: list[Row], predictor: Predictor, question: Question) -> list[First]:
        """The prefill stage on each worker; written for speed: it is run for every worker and request."""
        tokens, hits, avoided = question.tokens, question.hits, question.avoided
        packs, weight = self._placement.mode == "pack", self._placement.prefill_work_weight
        limit, infinite = question.ttft_ms * self._safety, question.ttft_ms == math.inf
        found: list[First] = []
        pool, queued_token_ms, overhead, fresh, rates = "", 0.0, 0.0, 0.0, None
        for row in rows:
            if rates is None or pool != row.pool:
                pool, rates = row.pool, predictor.rates(row.pool)
                queued_token_ms, overhead, fresh = rates.queued_token_ms, rates.overhead_ms, rates.prefill_ms(tokens, 0)
            age = (now - row.reported_ns) / NS_PER_MS
            rate = row.owed_ms / row.owed_tokens if row.owed_tokens else queued_token_ms
            wait = row.due * rate - (age if age < FRESH_MS else FRESH_MS)
            late = age - FRESH_MS if age > FRESH_MS else 0.0
            wait = wait + late if wait > 0 else late
            cached = hits.get(row.number) if hits else 0
            prefill = rates.prefill_ms(tokens, cached) if cached else fresh
            ttft = overhead + wait + prefill
            cost = (late - wait if packs else ttft) + weight * prefill + TURN_MS * row.turn
            if not infinite and ttft > limit:
                cost += MISSED_MS * (ttft / limit - 1)
            if avoided and row.number in avoided:
                cost += AVOIDED_MS
            found.append((cost, row.number, row, wait, prefill, ttft))
        return found

    def _seconds(self, rows: list[Row], predictor: Predictor, question: Question) -> list[Second]:
        """The decode stage on each worker; written for speed."""
        tokens, avoided, block_size = question.tokens, question.avoided, self._block_size
        needed, output_tokens = tokens + question.output_bound, question.output_tokens
        packs, weight = self._placement.mode == "pack", self._placement.harm_weight
        limit, infinite = question.tpot_ms * self._safety, question.tpot_ms == math.inf
        reserve = block_size * self._placement.kv_reserve
        found: list[Second] = []
        pool, alone, row_ms, context_ms, harm = "", 0.0, 0.0, 0.0, 0.0
        for row in rows:
            if pool != row.pool:
                pool, rates = row.pool, predictor.rates(row.pool)
                alone, row_ms, context_ms = rates.step_ms(1, tokens), rates.row_ms, rates.context_ms
                harm = weight * (row_ms + context_ms * tokens)
            itl = alone + row_ms * row.rows + context_ms * row.held
            cost = (-itl if packs else itl + harm * row.rows) + TURN_MS * row.turn
            short, slot = needed + row.placed_tokens + row.total * reserve - row.free * block_size, 0.0
            if short > 0:
                slot = short / max(row.total * (block_size - reserve), 1.0) * itl * output_tokens
                cost += slot
            if not infinite and itl > limit:
                cost += MISSED_MS * (itl / limit - 1)
            if avoided and row.number in avoided:
                cost += AVOIDED_MS
            found.append((cost, row.number, row, itl, slot))
        return found

    def _best_pair(
        self, predictor: Predictor, question: Question, firsts: list[First], seconds: list[Second]
    ) -> Choice | None:
        """The best two workers. A hand-off between two hosts is never taken for quicker than on one."""
        if not firsts or not seconds:
            return None
        near = predictor.transfer_ms(question.tokens, True)
        first, second = min(firsts), min(seconds)
        if first[2].host == second[2].host:
            return Choice(first[0] + second[0] + near, first, second, transfer=near)
        apart = max(predictor.transfer_ms(question.tokens, False), near)
        best = Choice(first[0] + second[0] + apart, first, second, transfer=apart)
        on_host: dict[int, First] = {}
        for each in firsts:
            known = on_host.get(each[2].host)
            if known is None or each < known:
                on_host[each[2].host] = each
        for other in seconds:
            there = on_host.get(other[2].host)
            if there is not None and there[0] + other[0] + near < best.cost:
                best = Choice(there[0] + other[0] + near, there, other, transfer=near)
        return best

    def _best_alone(
        self, now: int, fleet: Fleet, predictor: Predictor, question: Question, seconds: list[Second], no_pair: bool
    ) -> tuple[Choice | None, int]:
        """The best worker for both stages, and how many of both roles there are."""
        rows, policy = self._rows(now, fleet, fleet.both, question), question.local
        num_both = len(rows)
        if (policy == "fallback" and no_pair and not rows) or (
            policy == "cheaper" and (no_pair or question.tokens <= self._config.local_prefill_max_tokens)
        ):
            rows = rows + self._rows(now, fleet, fleet.local, question)
        if not rows:
            return None, num_both
        here = {each[1]: each for each in seconds}
        best = None
        for first in self._firsts(now, rows, predictor, question):
            second = here[first[1]]
            cost = first[0] + second[0] + self._beside_ms(second[2], first[4])
            if best is None or cost < best.cost:
                best = Choice(cost, first, second)
        return best, num_both

    def _beside_ms(self, row: Row, prefill_ms: float) -> float:
        """Harm of a prompt to decodes on the same worker."""
        return self._placement.harm_weight * row.rows * prefill_ms

    def _decision(self, predictor: Predictor, question: Question, best: Choice) -> Decision:
        """What was chosen, with its numbers."""
        _, number, source, wait, prefill, ttft = best.first
        _, _, target, itl, slot = best.second
        rates, tokens, gain = predictor.rates(target.pool), question.tokens, 0.0
        if source is not target:
            there = rates.prefill_ms(tokens, question.hits.get(target.number, 0))
            gain = there + self._beside_ms(target, there) - wait - prefill - best.transfer
        # Of the decodes that run now, those that are over when the prompt is computed (Mooncake's early rejection
        # predicts the load of that moment; lengths are taken as exponential, which needs no history of each).
        life_ms = max(itl * question.output_tokens, 1e-3)
        stay = math.exp(-ttft / life_ms)
        held = target.context * stay + target.placed_tokens + tokens
        return Decision(
            prefill=source.ref,
            decode=target.ref,
            path=best.path,
            cost_ms=best.cost,
            ttft_ms=ttft,
            wait_ms=wait,
            prefill_ms=prefill,
            transfer_ms=best.transfer,
            slot_ms=slot,
            itl_ms=itl,
            idle_itl_ms=rates.step_ms(1, tokens),
            itl_now_ms=rates.step_ms(target.running + 1, target.context + tokens),
            itl_then_ms=rates.step_ms(target.running * stay + target.placed + 1, held),
            hit_tokens=question.hits.get(number, 0),
            best_hit_tokens=max(question.hits.values(), default=0),
            tokens=tokens,
            prefill_candidates=best.candidates[0],
            decode_candidates=best.candidates[1],
            feasible=ttft <= question.ttft_ms * self._safety and itl <= question.tpot_ms * self._safety,
            gain_ms=gain,
            life_ms=life_ms,
        )
