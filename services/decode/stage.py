"""The decode stage: grants offers, takes over committed requests, emits their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.core.actions import Action
from services.core.output import StepTokens
from services.core.request import Discipline, Request
from services.core.timeline import MarkKind
from services.decode.config import DecodeConfig
from services.decode.intake import BackPressure, IntakeLoad, IntakeQueue, WaitingOffer, back_pressure
from services.kvcache.block import num_blocks
from services.kvcache.block_manager import BlockManager
from services.kvcache.transfer import Transfers
from services.kvcache.transfer_entry import Committed, OfferDropped, Offered, Revoked
from services.scheduling.mixed import MixedScheduler
from services.scheduling.outputs import StepOutputs, refuse
from services.scheduling.progress import Admitted, Sampled
from services.scheduling.stages import DECODE, StageEvent
from services.scheduling.waiting import RequestState


class DecodeStage:
    """Requests whose prompt was computed elsewhere.

    A request is in exactly one place: `_intake` (offered), `_granted` (blocks reserved, KV under way), or the
    scheduler (committed).
    """

    def __init__(
        self,
        config: DecodeConfig,
        scheduler: MixedScheduler,
        blocks: BlockManager,
        transfers: Transfers,
        unix_offset_ns: int,
    ) -> None:
        self._config = config
        self._unix_offset_ns = unix_offset_ns
        self._scheduler = scheduler
        self._blocks = blocks
        self._transfers = transfers
        self._intake = IntakeQueue()
        self._granted: dict[str, WaitingOffer] = {}

    def handle(self, now: int, event: StageEvent) -> list[Action]:
        """An offer, its end, or a commit."""
        match event:
            case Offered():
                self._granted.pop(event.transfer_id, None)
                self._intake.add(WaitingOffer(event.transfer_id, event.request, event.num_tokens, now))
            case OfferDropped():
                self._intake.remove(event.transfer_id)
                self._granted.pop(event.transfer_id, None)
            case Committed():
                self._commit(now, event)
            case Revoked():
                state = self._scheduler.get(event.request_id)
                if state is not None and state.request.attempt == event.attempt:
                    self._scheduler.remove(state)
            case Admitted(state=state) if state.request.images:
                # A preempted request computes its tokens again, but its embeddings are not here.
                self._scheduler.remove(state)
                return [refuse(state.request, "IMAGES_NEEDED", "it lost its blocks and has images", state)]
            case Admitted():
                pass
            case _:
                raise AssertionError(f"not for the decode stage: {event}")
        return []

    def advance(
        self, now: int, sampled: Sequence[Sampled], plain: tuple[str, StepTokens] | None = None
    ) -> list[Action]:
        """Every token goes out; a request that is done gives its blocks back."""
        outputs = StepOutputs(plain)
        actions: list[Action] = []
        for state, token, logprob in outputs.take_plain(sampled):
            if state.num_new_outputs == 2:
                state.mark(MarkKind.DECODE_START, now)
            finish = state.finish_reason(token)
            if finish is not None:
                state.mark(MarkKind.FINISHED, now)
                self._scheduler.remove(state)
                actions += self._transfers.finished(now, state.request)
            outputs.add(state, token, logprob, finish)
        return [*outputs.emits(), *actions]

    def pump(self, now: int) -> list[Action]:
        """Grant offers in order while the accept rule holds."""
        actions: list[Action] = []
        pressure: BackPressure | None = None
        if not self._intake.by_id:
            self._intake.hold_back(None)
            self._scheduler.promise(len(self._granted), None)
            return actions
        while (offer := self._intake.head()) is not None:
            pressure = back_pressure(offer, self._intake_load(), self._config)
            if pressure is not None:
                break
            granted = self._transfers.grant(now, offer.transfer_id)
            if granted is None:  # it fits, but only below the watermark
                pressure = BackPressure.BLOCKS
                break
            self._intake.remove(offer.transfer_id)
            self._granted[offer.transfer_id] = offer
            actions += granted
        self._intake.hold_back(pressure)
        waits = offer is not None and pressure is BackPressure.BLOCKS
        self._scheduler.promise(len(self._granted), offer.arrived_ns if offer is not None and waits else None)
        return actions

    def drop(self, request_id: str) -> Request | None:
        """Forget a request that is over; its transfer was cancelled."""
        offer = self._find(request_id)
        if offer is None:
            return None
        self._intake.remove(offer.transfer_id)
        self._granted.pop(offer.transfer_id, None)
        return offer.request

    def held(self) -> list[Request]:
        """Requests that are offered or granted."""
        return [offer.request for offer in [*self._intake.offers(), *self._granted.values()]]

    def find(self, request_id: str) -> Request | None:
        """One of them."""
        offer = self._find(request_id)
        return None if offer is None else offer.request

    def _find(self, request_id: str) -> WaitingOffer | None:
        for offer in [*self._intake.offers(), *self._granted.values()]:
            if offer.request.request_id == request_id:
                return offer
        return None

    def state(self) -> object:
        """Offers in their order, and the transfers that were granted."""
        return {"intake": self._intake.state(), "granted": list(self._granted)}

    def pressure(self) -> tuple[int, str]:
        """Offers that wait, and why."""
        intake = self._intake
        return len(intake.by_id), "" if intake.pressure is None else intake.pressure.value

    def counts(self) -> Mapping[str, int]:
        """How often an offer began to wait."""
        held_back = self._intake.held_back
        return {f"held_back/{reason}": count for reason, count in held_back.items()} if held_back else held_back

    def owners(self) -> list[list[int]]:
        """Blocks of requests are the scheduler's, those of grants the transfers'."""
        return []

    def _intake_load(self) -> IntakeLoad:
        """Requests that were accepted and have not had a decode step, and what else the accept rule looks at."""
        scheduler, size = self._scheduler, self._blocks.block_size
        granted = self._granted.values()
        early = [each.num_tokens for each in granted if each.request.discipline is Discipline.EARLY]
        waiting = [each.num_tokens for each in granted if each.request.discipline is Discipline.LATE]
        waiting += [state.num_computed for state in scheduler.first_decodes()]
        return IntakeLoad(
            total=self._blocks.total,
            free=self._blocks.free_blocks,
            block_size=size,
            places=scheduler.max_running - scheduler.num_running - len(self._granted),
            waiting_blocks=sum([num_blocks(tokens, size) for tokens in waiting]),
            early_blocks=sum([num_blocks(tokens, size) for tokens in early]),
            num_preempted=scheduler.num_preempted,
            blocked_since=scheduler.blocked_since,
        )

    def _commit(self, now: int, event: Committed) -> None:
        """Decode goes on from the token that prefill sampled: it is never computed again."""
        request = event.request
        self._granted.pop(f"{request.request_id}/{request.attempt}", None)
        deadline_ns = request.deadline_ns(self._unix_offset_ns)
        tokens = [*request.known_tokens, event.first_token]
        state = RequestState(request, DECODE, tokens, event.offered_ns, deadline_ns)
        state.num_computed = event.num_tokens
        state.blocks = list(event.blocks)
        state.mark(MarkKind.HANDOFF_OFFERED, event.offered_ns)
        state.mark(MarkKind.HANDOFF_GRANTED, event.granted_ns)
        state.mark(MarkKind.HANDOFF_COMMITTED, now)
        self._scheduler.add_running(state)
