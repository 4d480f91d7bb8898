"""The prefill stage: takes prompts, emits first tokens, offers the KV to the decode worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.core.actions import Action, Submit
from services.core.output import StepTokens
from services.core.request import Discipline, Request
from services.core.timeline import MarkKind
from services.kvcache.block_manager import BlockManager
from services.kvcache.transfer import Transfers
from services.kvcache.transfer_entry import Committed, HandedOff, HandoffFailed, OfferDropped, Offered
from services.kvcache.transfer_sender import transfer_id_of
from services.prefill.config import PrefillConfig
from services.prefill.handoff import HandoffQueue
from services.prefill.images import Gathering, ImageIntake
from services.scheduling.mixed import MixedScheduler
from services.scheduling.outputs import StepOutputs, refuse
from services.scheduling.progress import Admitted, Sampled, Stepping
from services.scheduling.stages import PREFILL, StageEvent
from services.scheduling.waiting import RequestState


class PrefillStage:
    """Prompts of one worker. A request without `handoff_to` is decoded here too (colocated)."""

    def __init__(
        self, config: PrefillConfig, scheduler: MixedScheduler, blocks: BlockManager, transfers: Transfers
    ) -> None:
        self._config = config
        self._scheduler = scheduler
        self._transfers = transfers
        self._block_size = blocks.block_size
        self._handoffs = HandoffQueue()
        self._images = ImageIntake(config.max_image_block_share, blocks, transfers)

    def handle(self, now: int, event: StageEvent) -> list[Action]:
        """A new prompt, blocks for one, a step with one, or the end of a hand-off."""
        match event:
            case Submit():
                return self._submit(now, event)
            case Admitted(state=state):
                state.mark(MarkKind.PREFILL_START, now)
                return self._offer_early(now, state)
            case Stepping():
                return self._push_early(now, event)
            case HandedOff():
                self._handoffs.pop(event.request_id)
                return []
            case HandoffFailed():
                return self._failed(now, event)
            case Offered():
                self._images.offered(event)
                return []
            case OfferDropped():
                self._images.dropped(event.transfer_id)
                return []
            case Committed():
                self._gathered(self._images.committed(event, transfer_id_of(event.request)))
                return []
        raise AssertionError(f"not for the prefill stage: {event}")

    def advance(
        self, now: int, sampled: Sequence[Sampled], plain: tuple[str, StepTokens] | None = None
    ) -> list[Action]:
        """Every token goes out; after the first one the KV is offered, unless the request is decoded here."""
        outputs, actions = StepOutputs(plain), []
        for state, token, logprob in outputs.take_plain(sampled):
            if state.num_new_outputs == 1:
                state.mark(MarkKind.PREFILL_END, now)
            finish = state.finish_reason(token)
            if finish is not None:
                state.mark(MarkKind.FINISHED, now)
                actions += self._finished(now, state)
            elif state.request.handoff_to is not None:
                actions += self._handoff(now, state, token)
            outputs.add(state, token, logprob, finish)
        return outputs.emits() + actions

    def _finished(self, now: int, state: RequestState) -> list[Action]:
        """An early grant is given back when there is nothing to hand off."""
        actions = self._transfers.release(now, transfer_id_of(state.request)) if state.pinned else []
        self._remove(state)
        return actions

    def _remove(self, state: RequestState) -> None:
        """A request is over here, and so is the need of its embeddings."""
        self._scheduler.remove(state)
        if state.request.shards:
            self._images.drop(state.request.request_id)

    def pump(self, now: int) -> list[Action]:
        """Prompts are admitted by the scheduler alone; embeddings have to be asked for."""
        return self._images.pump(now) if len(self._images) else []

    def drop(self, request_id: str) -> Request | None:
        """Forget a hand-off, whose transfer was cancelled, or a prompt that waits for embeddings."""
        waits = self._images.drop(request_id)
        return self._handoffs.pop(request_id) or waits

    def held(self) -> list[Request]:
        """Requests that are being handed off, or wait for embeddings."""
        return self._handoffs.requests() + self._images.requests() if len(self._images) else self._handoffs.requests()

    def find(self, request_id: str) -> Request | None:
        """One of them."""
        return self._handoffs.get(request_id) or self._images.find(request_id)

    def pressure(self) -> tuple[int, str]:
        """Prompts that wait for embeddings; all others wait in the scheduler."""
        waiting = len(self._images)
        return waiting, "" if not waiting else "blocks" if self._images.waits_for_room else "images"

    def counts(self) -> Mapping[str, int]:
        """Refusals are counted where they end requests."""
        return {}

    def owners(self) -> list[list[int]]:
        """Blocks of embeddings."""
        return self._images.owners()

    def state(self) -> object:
        """Ids of the requests that are being handed off, and embeddings."""
        handoffs = [request.request_id for request in self._handoffs.requests()]
        return {"handoffs": handoffs, "images": self._images.state()}

    def _submit(self, now: int, event: Submit) -> list[Action]:
        request = event.request
        if self._scheduler.num_waiting >= self._config.max_waiting_requests:
            return [refuse(request, "OVERLOADED", f"{self._scheduler.num_waiting} requests wait on this worker")]
        if request.shards:
            self._images.add(now, event)
        else:
            self._queue(now, event)
        return []

    def _queue(self, arrived_ns: int, event: Submit) -> None:
        """Everything that the prompt needs is here."""
        request = event.request
        state = RequestState(request, PREFILL, list(request.known_tokens), arrived_ns, event.deadline_ns)
        state.mark(MarkKind.QUEUED, arrived_ns)
        self._scheduler.add(state)

    def embedded(self, now: int, request: Request, first: int, blocks: list[int]) -> None:
        """A shard was encoded on this worker; its blocks are ours from here on."""
        self._gathered(self._images.embedded(request, first, blocks))

    def _gathered(self, found: Gathering | None) -> None:
        if found is not None:
            self._queue(found.arrived_ns, found.submit)

    def _offer_early(self, now: int, state: RequestState) -> list[Action]:
        """Early grants are asked for as soon as the prompt has its blocks here."""
        request = state.request
        if request.handoff_to is None or request.discipline is not Discipline.EARLY or state.num_new_outputs:
            return []
        state.pinned = True
        actions = self._transfers.offer(
            now, request, state.blocks, len(state.tokens), request.handoff_to, Discipline.EARLY, None
        )
        cached = state.num_computed // self._block_size
        return actions + (self._transfers.ready(now, transfer_id_of(request), cached, None) if cached else [])

    def _push_early(self, now: int, event: Stepping) -> list[Action]:
        """Send the blocks that a chunk fills while it is computed, layer group by layer group."""
        state = event.state
        is_last = event.num_computed == len(state.tokens)
        full = len(state.blocks) if is_last else event.num_computed // self._block_size
        transfer_id = transfer_id_of(state.request)
        return self._transfers.ready(now, transfer_id, full, None, event.step_id) if full else []

    def _handoff(self, now: int, state: RequestState, token: int) -> list[Action]:
        """The transfer holds its own references on the blocks, so the scheduler's may go."""
        request = state.request
        assert request.handoff_to is not None
        self._handoffs.add(request)
        if state.pinned:
            actions = self._transfers.ready(now, transfer_id_of(request), len(state.blocks), token)
        else:
            actions = self._transfers.offer(
                now, request, state.blocks, state.num_computed, request.handoff_to, Discipline.LATE, token
            )
        self._remove(state)
        return actions

    def _failed(self, now: int, event: HandoffFailed) -> list[Action]:
        """No attempt is left. An early transfer may fail while the prompt is still being computed."""
        request = self._handoffs.pop(event.request_id)
        state = self._scheduler.get(event.request_id)
        if state is not None:
            request = state.request
            self._remove(state)
        if request is None:
            return []
        return [refuse(request, "KV_TRANSFER_FAILED", f"the KV hand-off failed: {event.reason}", state)]
