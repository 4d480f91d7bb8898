"""Places requests, keeps what was promised to workers, and learns from what comes back."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass

from services.core.actions import Dispatch, RequestOutput, WorkerReport
from services.core.clock import NS_PER_MS, NS_PER_S
from services.core.request import Request, WorkerRef
from services.router.choose import Chooser, Question
from services.router.config import RouterConfig
from services.router.decision import Decision
from services.router.encoders import spread_images
from services.router.fleet import Row
from services.router.local_prefill import LOCAL_PREFILL, LocalQuestion
from services.router.predict import Predictor
from services.router.prefix_index import PrefixIndex
from services.router.profiles import NoCandidate, Profile
from services.router.running import Running
from services.router.view import ViewBuilder, WorkerView

MOST_DECISIONS = 512
"""Decisions that are remembered."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Two workers, or one for both stages, and why; `decision` has the numbers where times were predicted."""

    prefill: WorkerRef
    decode: WorkerRef
    path: str
    decision: Decision | None = None


class Placing:
    """Everything between a request and its workers.

    Args:
        front_door: whose placements these are.
        block_size: tokens in one KV block.

    Attributes:
        view: what is known of the workers.
        predictor, index: what was learned of times, and of prefixes.
        decisions: the latest ones by request, for whoever asks why.
        gained_ms: what hand-offs are predicted to have saved over prompts computed where they are decoded.
    """

    def __init__(self, front_door: str, config: RouterConfig, block_size: int) -> None:
        self.view = ViewBuilder(front_door)
        self.predictor = Predictor(config.cost)
        self.index = PrefixIndex(config.predicted.index_blocks)
        self.decisions: dict[str, Decision] = {}
        self.gained_ms = 0.0
        self._config, self._block_size = config, block_size
        self._profile, self._chooser = Profile(config), Chooser(config, block_size)
        self._local_prefill = LOCAL_PREFILL.get(config.local_prefill)
        self._predicts = config.placement == "predicted"
        self._silent_ns = int(config.move_silent_s * NS_PER_S)

    def aside(self) -> Placing:
        """The same knowledge, where looking changes a copy: no decision log tells of it, so a replay would miss it."""
        found = copy(self)
        found.predictor, found.index = self.predictor.aside(), self.index.aside()
        return found

    # --- workers ------------------------------------------------------------------------------------------------

    def report(self, now: int, report: WorkerReport) -> WorkerRef | None:
        """Take a report; returns the earlier process of the same worker id when this one replaces it."""
        known = self.view.fleet.rows.get(report.source.worker_id)
        if known is not None and known.ref != report.source:
            self._forget(known)
        replaced = self.view.report(now, report)
        if report.blocks is not None and (row := self.view.fleet.row(report.source)) is not None:
            self.index.told(row.number, report.blocks)
        return replaced

    def lost(self, worker: WorkerRef) -> None:
        """Forget a process."""
        row = self.view.fleet.row(worker)
        if row is not None:
            self._forget(row)
        self.view.lost(worker)

    def _forget(self, row: Row) -> None:
        self.index.lost(row.number)
        self.predictor.forget(row.ref.worker_id)

    def silent(self, now: int, awake_since_ns: int) -> list[WorkerRef]:
        """Workers that have said nothing for too long, unless it is us who slept."""
        since = now - self._silent_ns
        return self.view.silent(since) if awake_since_ns <= since else []

    # --- placement ----------------------------------------------------------------------------------------------

    def place(
        self, now: int, running: Running, refused: list[WorkerRef], avoided: list[WorkerRef]
    ) -> Placed | NoCandidate:
        """Workers for both stages, or why there are none.

        Args:
            refused: no candidates.
            avoided: taken only when there are no others.
        """
        if running.request.images:
            view = self.view.snapshot()
            encoder = self._profile.place(now, view, "encode", running.request, refused, avoided)
            if isinstance(encoder, NoCandidate):
                return encoder
        if self._predicts:
            decision = self.predict(now, running, refused, avoided)
            if decision is not None:
                return Placed(decision.prefill, decision.decode, decision.path, decision)
        return self._place_scored(now, running, refused, avoided)

    def predict(
        self, now: int, running: Running, refused: list[WorkerRef], avoided: list[WorkerRef]
    ) -> Decision | None:
        """The best placement by predicted times; None when a stage has no candidate."""
        request, fleet, lengths = running.request, self.view.fleet, self.predictor.lengths
        tokens = len(request.prompt) + len(request.resume)
        most = max(request.sampling.max_tokens - len(request.resume), 1)
        kind = (request.tenant, request.category)
        ttft_ms, tpot_ms = self.objectives(request)
        question = Question(
            tokens=tokens,
            hits=self._hits(now, running, tokens),
            output_tokens=lengths.quantile(*kind, 0.5, most),
            output_bound=lengths.quantile(*kind, 0.9, most),
            ttft_ms=ttft_ms,
            tpot_ms=tpot_ms,
            refused=fleet.numbers(refused),
            avoided=fleet.numbers(avoided),
            local="never" if request.images else self._config.local_prefill,
        )
        return self._chooser.choose(now, fleet, self.predictor, question)

    def objectives(self, request: Request) -> tuple[float, float]:
        """Times to the first and to each further token that a request should keep; infinite where none are wished."""
        usual = self._config.objectives
        ttft_ms = usual.ttft_ms if request.ttft_slo_ms is None else request.ttft_slo_ms
        tpot_ms = usual.tpot_ms if request.tpot_slo_ms is None else request.tpot_slo_ms
        return math.inf if ttft_ms is None else ttft_ms, math.inf if tpot_ms is None else tpot_ms

    def _hits(self, now: int, running: Running, tokens: int) -> dict[int, int]:
        """Tokens that need not be computed, by row; the last token of a prompt always is."""
        size, most = self._block_size, (tokens - 1) // self._block_size
        hashes = running.request.block_hashes[:most]
        found = {number: blocks * size for number, blocks in self.index.match(now, hashes)}
        last = running.cached_on
        if last is not None and last not in running.failed and (row := self.view.fleet.row(last)) is not None:
            found[row.number] = most * size
        return found

    def _place_scored(
        self, now: int, running: Running, refused: list[WorkerRef], avoided: list[WorkerRef]
    ) -> Placed | NoCandidate:
        """Each stage by filters, scorer and picker."""
        view = self.view.snapshot()
        prefill = self._profile.place(now, view, "prefill", running.request, refused, avoided, running.cached_on)
        # A worker of both roles decodes its own prompts: there is nothing to hand off.
        if not isinstance(prefill, NoCandidate) and "decode" in prefill.report.roles:
            return Placed(prefill.worker, prefill.worker, "colocated")
        decode = self._profile.place(now, view, "decode", running.request, refused, avoided)
        if isinstance(decode, NoCandidate):
            return decode
        known = None if isinstance(prefill, NoCandidate) else prefill
        reason = self._why_local(running.request, known, decode)
        if reason is not None:
            return Placed(decode.worker, decode.worker, f"local_prefill/{reason}")
        return prefill if isinstance(prefill, NoCandidate) else Placed(prefill.worker, decode.worker, "handoff")

    def _why_local(self, request: Request, prefill: WorkerView | None, decode: WorkerView) -> str | None:
        """Why the decode worker should compute the prompt itself, if it should and can."""
        if "prefill" not in decode.report.stages or request.images:
            return None
        config = self._config
        return self._local_prefill(
            LocalQuestion(len(request.known_tokens), prefill, decode, config.cost, config.local_prefill_max_tokens)
        )

    # --- promises -----------------------------------------------------------------------------------------------

    def dispatched(self, now: int, running: Running, placed: Placed) -> None:
        """A request goes to its workers; until their reports count it, it is counted here."""
        request, decision = running.request, placed.decision
        tokens = len(request.known_tokens)
        running.prefill, running.decode, running.waits_until_ns = placed.prefill, placed.decode, None
        running.cached_on, running.decision, running.dispatched_ns = placed.prefill, decision, now
        running.owed_ms = decision.prefill_ms if decision is not None else 0.0
        self.view.dispatched(placed.prefill, tokens)
        if placed.decode != placed.prefill:
            self.view.take_turn(placed.decode)
        self.view.reserve_decode(placed.decode, 1, tokens)
        if decision is not None:
            self._note(request.request_id, decision)
            self.view.fleet.owe(placed.prefill, tokens, running.owed_ms)
            row = self.view.fleet.row(placed.prefill)
            if row is not None and request.block_hashes:
                self.index.sent(now, request.block_hashes, row.number)
        running.owes = decision is not None

    def spread_images(self, now: int, running: Running) -> list[Dispatch]:
        """Send the images of a request that was dispatched to those who encode them."""
        return spread_images(self._profile, self.view, now, running)

    def _note(self, request_id: str, decision: Decision) -> None:
        self.gained_ms += decision.gain_ms
        self.decisions.pop(request_id, None)
        self.decisions[request_id] = decision
        if len(self.decisions) > MOST_DECISIONS:
            del self.decisions[next(iter(self.decisions))]

    def computed(self, now: int, running: Running, output: RequestOutput) -> None:
        """The first token of an attempt came from its prefill worker."""
        if not running.owes:
            return
        self._pay(running)
        worker, decision, request = running.prefill, running.decision, running.request
        row = None if worker is None else self.view.fleet.row(worker)
        if worker is None or row is None or decision is None:
            return
        self.predictor.prompt_computed(worker.worker_id, row.pool, len(request.known_tokens), output)
        took_ms = (now - running.dispatched_ns) / NS_PER_MS
        self.predictor.surrounded(row.pool, took_ms - decision.wait_ms - decision.prefill_ms)

    def decodes(self, now: int, running: Running, source: WorkerRef, output: RequestOutput) -> None:
        """Its decode worker spoke, or it ended before: from here on, reports count it."""
        running.decoding = True
        worker = running.decode
        if worker is None:
            return
        self.view.reserve_decode(worker, -1, len(running.request.known_tokens))
        row = self.view.fleet.row(worker)
        if row is None or source != worker:
            return
        running.decode_ns, running.decode_index = now, output.index + len(output.token_ids)
        running.beside = (float(row.running), float(row.context))
        if worker != running.prefill and running.prefill is not None:
            first = self.view.fleet.row(running.prefill)
            same = first is not None and first.host == row.host
            self.predictor.handed_off(len(running.request.known_tokens), same, output)

    def ended(self, now: int, running: Running) -> None:
        """A request has its whole output."""
        request, worker = running.request, running.decode
        self.predictor.lengths.observe(request.tenant, request.category, len(running.tokens))
        row = None if worker is None else self.view.fleet.row(worker)
        if row is None or not running.decode_ns:
            return
        rows = (running.beside[0] + row.running) / 2
        context = (running.beside[1] + row.context) / 2
        duration_ms = (now - running.decode_ns) / NS_PER_MS
        self.predictor.decoded(row.pool, rows, context, len(running.tokens) - running.decode_index, duration_ms)

    def release(self, running: Running) -> None:
        """An attempt is over: what it was counted for is given back."""
        self._pay(running)
        if running.decode is not None and not running.decoding:
            self.view.reserve_decode(running.decode, -1, len(running.request.known_tokens))

    def _pay(self, running: Running) -> None:
        if running.owes and running.prefill is not None:
            self.view.fleet.owe(running.prefill, -len(running.request.known_tokens), -running.owed_ms)
        running.owes = False

    def figures(self) -> dict[str, float]:
        """Numbers for metrics."""
        return {
            "reservations": float(sum([row.placed for row in self.view.fleet.rows.values()])),
            "index_blocks": float(len(self.index)),
            "index_gaps": float(self.index.gaps),
            "index_resyncs": float(self.index.resyncs),
            "handoff_gain_ms": self.gained_ms,
        }

    def state(self) -> dict[str, object]:
        """Reservations and everything learned."""
        return {"view": self.view.state(), "predictor": self.predictor.state(), "index": self.index.state()}
