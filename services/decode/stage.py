"""The decode stage: grants offers, takes over committed requests, emits their tokens."""

from __future__ import annotations

from services.core.actions import Action, Emit, RequestOutput
from services.core.request import Request
from services.core.timeline import MarkKind
from services.decode.config import DecodeConfig
from services.decode.intake import IntakeQueue, WaitingOffer, accepts
from services.kvcache.block_manager import BlockManager
from services.kvcache.transfer import Transfers
from services.kvcache.transfer_entry import Committed, OfferDropped, Offered, Revoked
from services.scheduling.host import DECODE, StageEvent
from services.scheduling.mixed import Admitted, Advanced, MixedScheduler
from services.scheduling.waiting import RequestState


class DecodeStage:
    """Requests whose prompt was computed elsewhere.

    A request is in exactly one place: `_intake` (offered), `_granted` (blocks reserved, KV under way), or the
    scheduler (committed).
    """

    def __init__(
        self, config: DecodeConfig, scheduler: MixedScheduler, blocks: BlockManager, transfers: Transfers
    ) -> None:
        self._config = config
        self._scheduler = scheduler
        self._blocks = blocks
        self._transfers = transfers
        self._intake = IntakeQueue()
        self._granted: dict[str, WaitingOffer] = {}

    def handle(self, now: int, event: StageEvent) -> list[Action]:
        """An offer, its end, a commit, or a token."""
        match event:
            case Offered():
                self._granted.pop(event.transfer_id, None)
                self._intake.add(WaitingOffer(event.transfer_id, event.request, event.num_tokens))
            case OfferDropped():
                self._intake.remove(event.transfer_id)
                self._granted.pop(event.transfer_id, None)
            case Committed():
                self._commit(now, event)
            case Revoked():
                state = self._scheduler.get(event.request_id)
                if state is not None and state.request.attempt == event.attempt:
                    self._scheduler.remove(state)
            case Advanced(state=state, token=int(token)):
                return self._sampled(now, state, token)
            case Advanced() | Admitted():
                pass  # a preempted request computes its tokens again
            case _:
                raise AssertionError(f"not for the decode stage: {event}")
        return []

    def pump(self, now: int) -> list[Action]:
        """Grant offers in order while the accept rule holds."""
        actions: list[Action] = []
        while (offer := self._intake.head()) is not None and self._accepts(offer):
            granted = self._transfers.grant(now, offer.transfer_id)
            if granted is None:
                break
            self._intake.remove(offer.transfer_id)
            self._granted[offer.transfer_id] = offer
            actions += granted
        return actions

    def drop(self, request_id: str) -> Request | None:
        """Forget a request that is over; its transfer was cancelled."""
        for offer in [*self._intake.offers(), *self._granted.values()]:
            if offer.request.request_id == request_id:
                self._intake.remove(offer.transfer_id)
                self._granted.pop(offer.transfer_id, None)
                return offer.request
        return None

    def held(self) -> list[Request]:
        """Requests that are offered or granted."""
        return [offer.request for offer in [*self._intake.offers(), *self._granted.values()]]

    def state(self) -> object:
        """Transfer ids in their order."""
        return {"intake": [offer.transfer_id for offer in self._intake.offers()], "granted": list(self._granted)}

    def _accepts(self, offer: WaitingOffer) -> bool:
        waiting = [state for state in self._scheduler.decodes if state.num_new_outputs == 1]
        tokens = [state.num_computed for state in waiting] + [each.num_tokens for each in self._granted.values()]
        return self._scheduler.num_running + len(self._granted) < self._scheduler.max_sequences and accepts(
            offer.num_tokens,
            waiting_blocks=sum(-(-count // self._blocks.block_size) for count in tokens),
            free=self._blocks.free_blocks,
            total=self._blocks.total,
            share=self._config.max_waiting_block_share,
            block_size=self._blocks.block_size,
        )

    def _commit(self, now: int, event: Committed) -> None:
        """Decode goes on from the token that prefill sampled: it is never computed again."""
        request = event.request
        self._granted.pop(f"{request.request_id}/{request.attempt}", None)
        state = RequestState(request, DECODE, [*request.known_tokens, event.first_token], now)
        state.num_computed = event.num_tokens
        state.blocks = list(event.blocks)
        state.mark(MarkKind.HANDOFF_OFFERED, event.offered_ns)
        state.mark(MarkKind.HANDOFF_GRANTED, event.granted_ns)
        state.mark(MarkKind.HANDOFF_COMMITTED, now)
        self._scheduler.add_running(state)

    def _sampled(self, now: int, state: RequestState, token: int) -> list[Action]:
        if state.num_new_outputs == 2:
            state.mark(MarkKind.DECODE_START, now)
        finish = state.request.sampling.finish_reason(token, state.num_outputs)
        if finish is not None:
            state.mark(MarkKind.FINISHED, now)
        digests, state.digests = tuple(state.digests), []
        output = RequestOutput(
            state.request.request_id,
            state.request.attempt,
            state.num_outputs - 1,
            (token,),
            finish=finish,
            marks=state.take_marks(),
            logits_digests=digests,
        )
        if finish is not None:
            self._scheduler.remove(state)
        return [Emit(state.request.front_door, (output,))]
