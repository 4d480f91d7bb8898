"""The one scheduler: decode rows, then prompt chunks under a token budget, then new prompts (Sarathi-Serve)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.core.batch import Row, SampleSpec, ScheduledBatch, StepOutput
from services.kvcache.block_manager import BlockManager
from services.scheduling.config import SchedulerConfig
from services.scheduling.waiting import RequestState, WaitingQueue


@dataclass(frozen=True, slots=True)
class Advanced:
    """What a step did to one request: its KV grew, and where all known tokens are computed, a token was sampled."""

    state: RequestState
    token: int | None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A waiting request got blocks for all its known tokens."""

    state: RequestState


class MixedScheduler:
    """Requests of one worker, and what the next step computes for them.

    Args:
        config: budgets.
        blocks: the worker's block ids.
    """

    def __init__(self, config: SchedulerConfig, blocks: BlockManager) -> None:
        self._config = config
        self._blocks = blocks
        self._states: dict[str, RequestState] = {}
        self._waiting = WaitingQueue(config.order)
        self._running: list[RequestState] = []
        self._in_flight: list[tuple[RequestState, int]] = []
        self._next_step = 1
        self._admitted: list[RequestState] = []
        self.preemptions = 0

    # --- membership -------------------------------------------------------------------------------------------

    def add(self, state: RequestState) -> None:
        """A request without KV; it waits for blocks."""
        self._states[state.request.request_id] = state
        self._waiting.push(state)

    def add_running(self, state: RequestState) -> None:
        """A request whose blocks and KV are here already."""
        self._states[state.request.request_id] = state
        self._running.append(state)

    def get(self, request_id: str) -> RequestState | None:
        """A request of this worker."""
        return self._states.get(request_id)

    def states(self) -> list[RequestState]:
        """All requests that are not over."""
        return list(self._states.values())

    def remove(self, state: RequestState) -> None:
        """A request is over here; its blocks go back now, or when the running step ends."""
        del self._states[state.request.request_id]
        state.removed = True
        if state in self._running:
            self._running.remove(state)
        else:
            self._waiting.remove(state)
        if not state.in_flight:
            self._free(state)

    # --- one step ---------------------------------------------------------------------------------------------

    def schedule(self) -> ScheduledBatch | None:
        """The next step's batch, or None when nothing can run or a step is running."""
        if self._in_flight:
            return None
        rows: list[Row] = []
        budget = self._schedule_decodes(rows, self._config.max_batch_tokens)
        budget = self._schedule_chunks(rows, budget)
        self._schedule_waiting(rows, budget)
        if not rows:
            return None
        self._in_flight = [(self._states[row.request_id], len(row.token_ids)) for row in rows]
        for state, _ in self._in_flight:
            state.in_flight = True
        batch = ScheduledBatch(self._next_step, tuple(rows))
        self._next_step += 1
        return batch

    def _schedule_decodes(self, rows: list[Row], budget: int) -> int:
        """One token for every running decode; without a free block the last request is preempted."""
        for state in list(self._running):
            if budget == 0:
                break
            if state not in self._running or not state.is_decoding:
                continue
            while not self._blocks.extend(state.blocks, len(state.tokens)):
                victim = self._victim(rows)
                if victim is None:
                    break
                self._preempt(victim)
                if victim is state:
                    break
            else:
                rows.append(self._row(state, 1))
                budget -= 1
        return budget

    def _schedule_chunks(self, rows: list[Row], budget: int) -> int:
        """Go on with prompts that have their blocks."""
        for state in self._running:
            if budget == 0:
                break
            if state.num_uncomputed > 0 and not state.is_decoding:
                chunk = min(state.num_uncomputed, budget)
                rows.append(self._row(state, chunk))
                budget -= chunk
        return budget

    def _schedule_waiting(self, rows: list[Row], budget: int) -> None:
        """Admit waiting requests in order while blocks for all their known tokens are there."""
        while budget > 0 and len(self._running) < self._config.max_sequences:
            state = self._waiting.head()
            if state is None:
                return
            got = self._blocks.allocate(len(state.tokens), state.request.block_hashes, len(state.tokens) - 1)
            if got is None:
                return
            self._waiting.remove(state)
            state.blocks = got.blocks
            state.num_computed = got.cached_blocks * self._blocks.block_size
            if state.num_preemptions == 0:
                state.cached_tokens = state.num_computed
            self._running.append(state)
            self._admitted.append(state)
            chunk = min(state.num_uncomputed, budget)
            rows.append(self._row(state, chunk))
            budget -= chunk

    def _row(self, state: RequestState, count: int) -> Row:
        start, end = state.num_computed, state.num_computed + count
        sampling = state.request.sampling
        sample = SampleSpec(sampling.temperature, sampling.seed) if end == len(state.tokens) else None
        covering = -(-end // self._blocks.block_size)
        return Row(
            state.request.request_id, tuple(state.tokens[start:end]), start, tuple(state.blocks[:covering]), sample
        )

    def _victim(self, rows: Sequence[Row]) -> RequestState | None:
        """The most recently admitted request that may lose its blocks."""
        taken = {row.request_id for row in rows}
        for state in reversed(self._running):
            if not state.pinned and state.request.request_id not in taken:
                return state
        return None

    def _preempt(self, state: RequestState) -> None:
        self._running.remove(state)
        self._free(state)
        state.num_computed = 0
        state.num_preemptions += 1
        self.preemptions += 1
        self._waiting.push_preempted(state)

    def pop_admitted(self) -> list[RequestState]:
        """Requests that got their blocks since the last call."""
        admitted, self._admitted = self._admitted, []
        return admitted

    def complete(self, output: StepOutput) -> list[Advanced]:
        """Take a step's result; requests that were removed meanwhile give their blocks back and are not reported."""
        assert output.error is None, output.error
        advanced = []
        for index, (state, num_tokens) in enumerate(self._end_step()):
            if state.removed:
                self._free(state)
                continue
            state.num_computed += num_tokens
            self._blocks.publish(state.blocks, state.request.block_hashes, state.num_computed)
            token = output.tokens[index]
            if token is not None:
                state.tokens.append(token)
                if output.logits_digests:
                    state.digests.append(output.logits_digests[index])
            advanced.append(Advanced(state, token))
        return advanced

    def fail(self) -> list[RequestState]:
        """The step failed: nothing was computed. Returns the requests it held that are not over."""
        failed = []
        for state, _ in self._end_step():
            if state.removed:
                self._free(state)
            else:
                failed.append(state)
        return failed

    def _end_step(self) -> list[tuple[RequestState, int]]:
        ended, self._in_flight = self._in_flight, []
        for state, _ in ended:
            state.in_flight = False
        return ended

    def _free(self, state: RequestState) -> None:
        blocks, state.blocks = state.blocks, []
        self._blocks.free(blocks)

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def max_sequences(self) -> int:
        """Most requests that may hold blocks."""
        return self._config.max_sequences

    @property
    def step_running(self) -> bool:
        """A batch was handed out and has not come back."""
        return bool(self._in_flight)

    @property
    def num_waiting(self) -> int:
        """Requests without blocks."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests with blocks."""
        return len(self._running)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens still to be computed."""
        return sum(state.num_uncomputed for state in self._states.values() if not state.is_decoding)

    @property
    def decodes(self) -> list[RequestState]:
        """Requests that get one token a step."""
        return [state for state in self._running if state.is_decoding]

    def owners(self) -> list[list[int]]:
        """The block references that requests hold, for `BlockManager.check`."""
        held = [state.blocks for state in self._states.values()]
        return held + [state.blocks for state, _ in self._in_flight if state.removed]

    def state(self) -> object:
        """Everything that decides future batches."""
        return {
            "requests": {request_id: state.state_fields() for request_id, state in self._states.items()},
            "waiting": [state.request.request_id for state in self._waiting],
            "running": [state.request.request_id for state in self._running],
            "in_flight": [[state.request.request_id, count, state.removed] for state, count in self._in_flight],
            "next_step": self._next_step,
            "preemptions": self.preemptions,
        }

    def check(self) -> None:
        """Every request is waiting without blocks or running with enough of them."""
        waiting, running = list(self._waiting), self._running
        assert len(waiting) + len(running) == len(self._states)
        for state in waiting:
            assert not state.blocks and state.num_computed == 0, state
        for state in running:
            covered = len(state.blocks) * self._blocks.block_size
            assert state.num_computed <= min(covered, len(state.tokens)), state
