"""The core of every worker: routes events to the hosted stages, gathers their rows, emits one step at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from services.core.actions import (
    Action,
    Cancel,
    Drain,
    Emit,
    Event,
    FrontDoorLost,
    LinkLost,
    LinkUp,
    PeerMessage,
    ReceiveDone,
    RunStep,
    SendDone,
    StepDone,
    Submit,
    Tick,
    WorkerLost,
)
from services.core.clock import NS_PER_S
from services.core.request import FinishReason, Request
from services.kvcache.block_manager import BlockManager
from services.kvcache.transfer import Transfers
from services.kvcache.transfer_entry import Committed, HandedOff, HandoffFailed, Notice, OfferDropped, Offered, Revoked
from services.scheduling.mixed import MixedScheduler
from services.scheduling.outputs import count_ends, end_of, merge_emits, refuse
from services.scheduling.progress import Admitted, Load
from services.scheduling.stages import DECODE, ENCODE, IMAGES, PREFILL, Encoder, Stage

OF_TRANSFERS: tuple[type[Event], ...] = (PeerMessage, SendDone, ReceiveDone, LinkUp, LinkLost, WorkerLost)
CANCELLED_KEPT_NS = 10 * NS_PER_S
"""How long a cancel is remembered whose submit may still be under way."""


class WorkerCore:
    """The state machine of one worker process.

    Args:
        stages: hosted stages by role; the role of a worker is which keys there are.
        encoder: the encode stage among them.
        scheduler, blocks, transfers: shared by the stages.
        unix_offset_ns: Unix time minus this process's monotonic clock; turns clients' deadlines into local ones.
        block_news (attribute): what came to the prefix cache, and what left it (`BlockManager.news`).
    """

    def __init__(
        self,
        stages: dict[str, Stage],
        scheduler: MixedScheduler,
        blocks: BlockManager,
        transfers: Transfers,
        unix_offset_ns: int,
        encoder: Encoder | None = None,
    ) -> None:
        self._stages, self._encoder = stages, encoder
        self._encoded_last = False
        self._pumps = [stage.pump for stage in stages.values()]
        self._scheduler, self._blocks, self._transfers = scheduler, blocks, transfers
        self._unix_offset_ns = unix_offset_ns
        self._cancelled: dict[str, tuple[int | None, int]] = {}
        self._next_deadline: int | None = None
        self._draining = False
        self._ended: Counter[str] = Counter()
        self._load: Load | None = None  # the last one told, until something else happens than steady steps
        self._handlers: dict[type[Event], Callable[[int, Any], list[Action]]] = {
            Submit: self._submit,
            StepDone: self._step_done,
            Tick: lambda now, event: self._transfer_event(now, event) + self._expire(now),
            Cancel: lambda now, event: self._cancel(now, event.request_id, event.reason, event.attempt),
            FrontDoorLost: self._front_door_lost,
            Drain: self._drain,
            **dict.fromkeys(OF_TRANSFERS, self._transfer_event),
        }
        self.block_news = blocks.news

    def handle(self, now: int, event: Event) -> list[Action]:
        """One event in, the actions it causes out; ends with the next step when none is running."""
        self._load = None
        actions = self._handlers[type(event)](now, event)
        for pump in self._pumps:
            actions += pump(now)
        if not self.step_running:
            actions += self._schedule(now)
        emits = [action for action in actions if type(action) is Emit]
        if not emits:
            return actions
        count_ends(emits, self._ended)
        return merge_emits(actions) if len(emits) > 1 else actions

    # --- events -----------------------------------------------------------------------------------------------

    def _front_door_lost(self, now: int, event: FrontDoorLost) -> list[Action]:
        gone = [request for request in self._requests() if request.front_door == event.front_door]
        return [each for request in gone for each in self._cancel(now, request.request_id, "front_door_lost")]

    def _drain(self, _now: int, _event: Drain) -> list[Action]:
        self._draining = True
        return []

    def _submit(self, now: int, event: Submit) -> list[Action]:
        request = event.request
        role = PREFILL if request.prefill_on is None else ENCODE
        stage = self._stages.get(role)
        if self._is_cancelled(request):
            del self._cancelled[request.request_id]
            return []
        if stage is None:
            return [refuse(request, "WRONG_ROLE", f"this worker does not host the {role} stage")]
        if self._draining:
            return [refuse(request, "DRAINING", "this worker is draining")]
        # What is decoded elsewhere grows there: that worker checks for itself.
        longest = request.max_num_tokens if request.handoff_to is None else len(request.known_tokens)
        if role == PREFILL and not self._blocks.fits(longest):
            return [refuse(request, "CONTEXT_LENGTH_EXCEEDED", "prompt plus output do not fit the KV pool")]
        known = self._held(request.request_id)
        if known is not None and (known.attempt == request.attempt or known.front_door != request.front_door):
            return [refuse(request, "DUPLICATE_REQUEST", "a request with this id is running on this worker")]
        if known is not None and known.attempt > request.attempt:
            return []
        actions = self._supersede(now, request) if known is not None else []
        self._expect_deadline(request)
        actions += stage.handle(now, Submit(event.source, request, self._deadline(request)))  # one taken is for both:
        if role == PREFILL and self._encoder is not None and request.shards and stage.find(request.request_id):
            actions += self._encoder.handle(now, event)
        return actions

    def _supersede(self, now: int, request: Request) -> list[Action]:
        """The front door dispatched a request again: what is left of its earlier attempts ends here."""
        return self._cancel(now, request.request_id, "superseded", request.attempt - 1)

    def _is_cancelled(self, request: Request) -> bool:
        """Whether its cancel came before it did."""
        until_attempt, _ = self._cancelled.get(request.request_id, (0, 0))
        return until_attempt is None or request.attempt <= until_attempt

    def _held(self, request_id: str) -> Request | None:
        """The attempt of a request that is here."""
        state = self._scheduler.get(request_id)
        if state is not None:
            return state.request
        return next((request for stage in self._stages.values() if (request := stage.find(request_id))), None)

    def _cancel(self, now: int, request_id: str, reason: str, attempt: int | None = None) -> list[Action]:
        """Release everything that the attempts up to `attempt` hold; the one who cancels needs no answer."""
        known = self._held(request_id)
        actions, notices = self._transfers.cancel(now, request_id, reason, attempt)
        actions += self._notices(now, notices)
        if known is None and not actions:
            self._cancelled[request_id] = (attempt, now + CANCELLED_KEPT_NS)
        if known is None or (attempt is not None and known.attempt > attempt):
            return actions
        for stage in self._stages.values():
            stage.drop(request_id)
        state = self._scheduler.get(request_id)
        if state is not None:
            self._scheduler.remove(state)
        return actions

    def _step_done(self, now: int, event: StepDone) -> list[Action]:
        output = event.output
        if self._encoder is not None and self._encoder.step_running:
            return self._encoder.complete(now, output)
        if (error := output.error) is not None:
            return self._failed(now, [(one.request.request_id, error) for one in self._scheduler.fail()], "STEP_FAILED")
        actions = self._failed(now, output.refused, "GRAMMAR_FAILED")
        sampled = self._scheduler.complete(output)
        plain = self._scheduler.plain_tokens
        for name, stage in self._stages.items():
            of_stage = sampled if len(self._stages) == 1 else [each for each in sampled if each[0].stage == name]
            tokens = plain[1:] if plain is not None and plain[0] == name else None
            if of_stage or tokens:
                actions += stage.advance(now, of_stage, tokens)
        return actions

    def _failed(self, now: int, failed: Sequence[tuple[str, str]], reason: str) -> list[Action]:
        """Requests whose step raised, or that were refused in it, end with what is said of them; all others go on."""
        actions: list[Action] = []
        for request_id, error in failed:
            if (state := self._scheduler.get(request_id)) is not None:
                actions += self._cancel(now, request_id, reason.lower())
                actions.append(refuse(state.request, reason, error, state))
        return actions

    def _transfer_event(
        self, now: int, event: PeerMessage | SendDone | ReceiveDone | LinkUp | LinkLost | WorkerLost | Tick
    ) -> list[Action]:
        actions, notices = self._transfers.handle(now, event)
        return actions + self._notices(now, notices)

    def _notices(self, now: int, notices: Sequence[Notice]) -> list[Action]:
        actions: list[Action] = []
        for notice in notices:
            match notice:
                case Offered():
                    actions += self._offered(now, notice)
                    continue
                case HandedOff(request_id=request_id) | HandoffFailed(request_id=request_id):
                    encodes = self._encoder is not None and self._encoder.find(request_id) is not None
                    stage = self._stages.get(ENCODE if encodes else PREFILL)
                case Committed():
                    stage = self._stages.get(DECODE if notice.request.prefill_on is None else PREFILL)
                case OfferDropped():
                    stage = self._stages.get(DECODE if IMAGES not in notice.transfer_id else PREFILL)
                case Revoked():
                    stage = self._stages.get(DECODE)
            if stage is not None:
                actions += stage.handle(now, notice)
        return actions

    def _offered(self, now: int, notice: Offered) -> list[Action]:
        """Let a stage have an offer; KV ends earlier attempts, and an offer of an earlier attempt is refused."""
        request_id, attempt = notice.request.request_id, notice.request.attempt
        if notice.request.prefill_on is not None and PREFILL in self._stages:
            return self._stages[PREFILL].handle(now, notice)
        held = self._held(request_id)
        known = 0 if held is None else held.attempt
        stage = self._stages.get(DECODE)
        if stage is None or attempt < known or self._is_cancelled(notice.request):
            return self._transfers.cancel(now, request_id, "superseded" if stage else "wrong_role", attempt)[0]
        if not self._blocks.fits(notice.request.max_num_tokens):
            return self._transfers.cancel(now, request_id, "context_length_exceeded", attempt)[0]
        actions = self._supersede(now, notice.request) if 0 < known < attempt else []
        self._expect_deadline(notice.request)
        return actions + stage.handle(now, notice)

    def _expire(self, now: int) -> list[Action]:
        """End requests whose deadline passed; forget old cancels."""
        actions: list[Action] = []
        for request in self._requests():
            deadline = self._deadline(request)
            if deadline is not None and deadline <= now:
                state = self._scheduler.get(request.request_id)
                actions += self._cancel(now, request.request_id, "deadline")
                self._cancelled.pop(request.request_id, None)
                actions.append(Emit(request.front_door, (end_of(request, state, FinishReason.DEADLINE, "DEADLINE"),)))
        self._cancelled = {key: each for key, each in self._cancelled.items() if each[1] > now}
        self._next_deadline = None
        for request in self._requests():
            self._expect_deadline(request)
        return actions

    def _schedule(self, now: int) -> list[Action]:
        """The next step; where images and tokens both wait, they take turns."""
        encoder = self._encoder
        batch = self._scheduler.schedule(now) if encoder is None or self._encoded_last else None
        if batch is None and encoder is not None:
            if (images := encoder.schedule(self._scheduler.next_step)) is not None:
                self._encoded_last = True
                self._scheduler.next_step += 1
                return [RunStep(images)]
            batch = self._scheduler.schedule(now)
        self._encoded_last = False
        if batch is None:
            return []
        actions: list[Action] = []
        for state in self._scheduler.pop_admitted():
            actions += self._stages[state.stage].handle(now, Admitted(state))
        actions.append(RunStep(batch))
        for stepping in self._scheduler.pinned_in_step(batch.step_id):
            actions += self._stages[stepping.state.stage].handle(now, stepping)
        return actions

    def steady_steps(self, token: int) -> int:
        """Ends of steps to come that would only emit `token` for every request, if nothing else happens."""
        for stage in self._stages.values():
            if stage.pressure()[0]:
                return 0
        return self._scheduler.steady_steps(token)

    def skip_steps(self, count: int, token: int) -> None:
        """The same state as after `count` such `StepDone`; at most `steady_steps(token)`."""
        self._scheduler.skip_steps(count, token)

    # --- facts ------------------------------------------------------------------------------------------------

    def outputs_of(self, request_id: str) -> tuple[int, int] | None:
        """Attempt, and output tokens, of a request that decodes here."""
        state = self._scheduler.get(request_id)
        return None if state is None else (state.request.attempt, state.num_outputs)

    def _deadline(self, request: Request) -> int | None:
        return request.deadline_ns(self._unix_offset_ns)

    def _expect_deadline(self, request: Request) -> None:
        """No deadline is earlier than `_next_deadline`; a tick in vain, when that request ended, finds the next."""
        deadline = self._deadline(request)
        if deadline is not None and (self._next_deadline is None or deadline < self._next_deadline):
            self._next_deadline = deadline

    def _requests(self) -> list[Request]:
        """Every request that holds something here, once."""
        known = {request.request_id: request for request in self._scheduler.requests()}
        for stage in self._stages.values():
            for request in stage.held():
                known.setdefault(request.request_id, request)
        return list(known.values())

    def request_ids(self) -> list[str]:
        """Every request that something is held for here, posted operations of dead transfers included."""
        return list(dict.fromkeys([request.request_id for request in self._requests()] + self._transfers.request_ids()))

    def next_wake(self) -> int | None:
        """Time of the next lease event, or one that no deadline is before. Asked after every event."""
        first, deadline = self._transfers.next_wake(), self._next_deadline
        return deadline if first is None or (deadline is not None and deadline < first) else first

    def load(self) -> Load:
        """Counts for the worker's report; whoever asks copies what it keeps."""
        scheduler, load = self._scheduler, self._load
        decodes, context_tokens = scheduler.decode_load()
        if load is None:
            load = self._load = self._new_load(decodes)
        # Steady steps change nothing else.
        load.kv_blocks_used, load.kv_blocks_cached = self._blocks.used, self._blocks.cached
        load.context_tokens = context_tokens
        return load

    def _new_load(self, decodes: int) -> Load:
        scheduler, transfers = self._scheduler, self._transfers
        waiting, pressure, held = 0, "", []
        for stage in self._stages.values():
            of_stage, why = stage.pressure()
            waiting, pressure = waiting + of_stage, pressure or why
            held += [request.request_id for request in stage.held()]
        outside = sum([scheduler.get(each) is None for each in dict.fromkeys(held)]) if held else 0
        queued = scheduler.queued_tokens if decodes < scheduler.num_requests else 0  # most only decode
        return Load(
            kv_blocks_total=self._blocks.total,
            queued_prefill_tokens=queued + (self._encoder.queued_tokens if self._encoder else 0),
            running_decodes=decodes,
            leases=transfers.num_leases,
            transfers=transfers.num_transfers,
            tasks=scheduler.num_requests + outside,
            waiting_offers=waiting,
            back_pressure=pressure,
            counters=tuple(self.counters().items()),
        )

    def counters(self) -> dict[str, int]:
        """How often something happened that nobody asked for, by `kind/reason`."""
        preempted = self._scheduler.preemptions
        total = {f"preempted/{reason}": count for reason, count in preempted.items()} if preempted else {}
        for counts in (self._transfers.counts, *[stage.counts() for stage in self._stages.values()], self._ended):
            if counts:
                for name, count in counts.items():
                    total[name] = total.get(name, 0) + count
        return total

    @property
    def blocks_used(self) -> int:
        """KV blocks that something refers to."""
        return self._blocks.used

    @property
    def hosted(self) -> tuple[str, ...]:
        """Names of the hosted stages."""
        return tuple(self._stages)

    @property
    def draining(self) -> bool:
        """No new request is taken."""
        return self._draining

    @property
    def step_running(self) -> bool:
        """A step was handed out and has not come back."""
        return self._scheduler.step_running or (self._encoder is not None and self._encoder.step_running)

    @property
    def idle(self) -> bool:
        """Nothing runs, waits or is being handed off."""
        return not self._requests() and not self._transfers.num_transfers and not self.step_running

    def state(self) -> object:
        """All declared state, for the decision log."""
        return {
            "scheduler": self._scheduler.state(),
            "blocks": self._blocks.state(),
            "transfers": self._transfers.state(),
            "stages": {name: stage.state() for name, stage in self._stages.items()},
            "cancelled": {key: list(each) for key, each in self._cancelled.items()},
            "next_deadline": self._next_deadline,
            "draining": self._draining,
            "encoded_last": self._encoded_last,
            "ended": dict(self._ended),
        }

    def check(self) -> None:
        """Every invariant of every part, and one owner for every block reference."""
        self._scheduler.check()
        self._transfers.check()
        held = [blocks for stage in self._stages.values() for blocks in stage.owners()]
        self._blocks.check(self._scheduler.owners() + self._transfers.owners() + held)
