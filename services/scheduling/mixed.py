"""The one scheduler: decodes, then prompt chunks under a token budget, then new prompts (Sarathi-Serve)."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

from services.core.batch import Row, ScheduledBatch, StepOutput
from services.core.clock import NS_PER_S
from services.core.request import Request
from services.core.timeline import MarkKind
from services.kvcache.block_manager import BlockManager
from services.scheduling.config import SchedulerConfig
from services.scheduling.decode_group import DecodeGroup
from services.scheduling.decoding import Decoding
from services.scheduling.preemption import NO_BLOCKS, choose_victim, tokens_to_cover
from services.scheduling.progress import PlainTokens, Sampled, Stepping
from services.scheduling.token_budget import TokenBudget
from services.scheduling.waiting import ORDERS, RequestState, WaitingQueue, chunk_row


class MixedScheduler:
    """Requests of one worker, and what the next step computes for them.

    Args:
        config: budgets.
        blocks: the worker's block ids.
    """

    def __init__(self, config: SchedulerConfig, blocks: BlockManager) -> None:
        self._budget = TokenBudget.of(config)
        self._order = ORDERS.get(config.order)
        self._ageing_ns = int(config.ageing_s * NS_PER_S)
        self._max_preemptions = config.max_preemptions
        self._blocks = blocks
        self._states: dict[str, RequestState] = {}
        self._waiting = WaitingQueue()
        self._running: list[RequestState] = []
        self._decoding = Decoding(blocks.block_size)
        self._step_decodes: Sequence[RequestState] = ()
        self._step_chunks: list[tuple[RequestState, int]] = []
        self.next_step = 1  # id of it; the encoder's steps are numbered with these
        self._admitted: list[RequestState] = []
        self._promised = 0
        self._oldest_outside: int | None = None
        self._blocked: RequestState | None = None
        self.preemptions: Counter[str] = Counter()

    # --- membership -------------------------------------------------------------------------------------------

    def add(self, state: RequestState) -> None:
        """A request without KV; it waits for blocks."""
        self._states[state.request.request_id] = state
        state.order = self._order(state, self._ageing_ns)
        self._waiting.push(state)

    def add_running(self, state: RequestState) -> None:
        """A request whose blocks and KV are here already; its place was promised."""
        self._states[state.request.request_id] = state
        state.order = self._order(state, self._ageing_ns)
        self._run(state)
        self._decoding.add(state)

    def promise(self, places: int, oldest_outside: int | None) -> None:
        """What a stage keeps outside the scheduler that competes with waiting requests.

        Args:
            places: requests that have blocks already and will be added running.
            oldest_outside: arrival of the oldest one that waits for blocks; nothing younger is admitted before it.
        """
        self._promised = places
        self._oldest_outside = oldest_outside

    def get(self, request_id: str) -> RequestState | None:
        """A request of this worker."""
        state = self._states.get(request_id)
        if state is not None and state in self._decoding.group.states:
            self._decoding.group.settle(state)
        return state

    def requests(self) -> list[Request]:
        """What those were asked."""
        return [state.request for state in self._states.values()]

    def remove(self, state: RequestState) -> None:
        """A request is over here; its blocks go back now, or when the running step ends."""
        del self._states[state.request.request_id]
        state.removed = True
        if state in self._running:
            self._stop_running(state)
        else:
            self._waiting.remove(state)
        if state is self._blocked:
            self._blocked = None
        if state not in self._step_decodes and all(state is not each for each, _ in self._step_chunks):
            self._free(state)

    def _run(self, state: RequestState) -> None:
        """A request has blocks; keys never change, so the list stays in order."""
        insort(self._running, state, key=attrgetter("order"))

    def _stop_running(self, state: RequestState) -> None:
        self._running.remove(state)
        self._decoding.discard(state)

    # --- one step ---------------------------------------------------------------------------------------------

    def schedule(self, now: int) -> ScheduledBatch | None:
        """The next step's batch, or None when nothing can run or a step is running."""
        if self._step_decodes or self._step_chunks:
            return None
        if not self._states and not self._decoding.changes:
            self._blocked = None
            return None
        decoding = self._decode_group(now)
        chunks = self._chunks(len(decoding.states))
        if not decoding.states and not chunks:
            return None
        self._step_decodes = decoding.states
        self._step_chunks = [(self._states[row.request_id], len(row.token_ids)) for row in chunks]
        self.next_step += 1
        return ScheduledBatch(self.next_step - 1, tuple(chunks), decoding.decodes() if decoding.states else None)

    def _decode_group(self, now: int) -> DecodeGroup:
        """Every running decode, with room for its token; when blocks run out, those last in order lose theirs."""
        group = self._decoding.gather(self._running)
        growing = group.without_room()
        if not growing:
            return group
        if self._blocks.extend_each([group.states[place].blocks for place in growing]):
            group.grew(growing)
        else:
            group.settle_all()
            taken: set[str] = set()
            for state in group.states:
                # Others were preempted for one of those before them.
                if state.is_decoding and self._has_room(now, state, taken):
                    taken.add(state.request.request_id)
            group = self._decoding.gather_anew(self._running)
        return group

    def _has_room(self, now: int, state: RequestState, taken: set[str]) -> bool:
        """A block for a decode's next token, if need be another's; False when its own blocks had to go."""
        if len(state.tokens) <= len(state.blocks) * self._blocks.block_size:
            return True
        while not self._blocks.extend(state.blocks, len(state.tokens)):
            victim = choose_victim(self._running, taken, self._max_preemptions)
            assert victim is not None, "whoever may need a block may itself be preempted"
            self._preempt(now, victim)
            if victim is state:
                return False
        return True

    def _chunks(self, num_decodes: int) -> list[Row]:
        """Chunks of prompts, running and waiting ones together, in order, until the budget is used."""
        rows: list[Row] = []
        left = self._budget.total - num_decodes
        prompts = []
        if num_decodes < len(self._running):
            prompts = [state for state in self._running if not state.is_decoding]
        self._blocked = None
        while left > 0:
            state = self._waiting.head() if self._blocked is None else None
            if state is not None and (not prompts or state.num_preemptions or state.order < prompts[0].order):
                if not self._admit(state):
                    self._blocked = state
                    continue
            elif prompts:
                state = prompts.pop(0)
            else:
                break
            count = self._budget.chunk(state.num_computed, state.num_uncomputed, left)
            rows.append(chunk_row(state, count, self._blocks.block_size))
            left -= count
        return rows

    def _admit(self, state: RequestState) -> bool:
        """Blocks for all known tokens of a waiting request, as many as possible from the prefix cache."""
        if len(self._running) + self._promised >= self._budget.max_running:
            return False
        outside = self._oldest_outside
        if outside is not None and outside < state.arrived_ns and not state.num_preemptions:
            return False
        tokens = tokens_to_cover(state, self._max_preemptions)
        # A cached position has no logits, so a prompt whose log-probabilities are asked for is computed whole.
        reusable = 0 if state.wants_scores else len(state.tokens) - 1
        got = self._blocks.allocate(tokens, state.request.block_hashes, reusable)
        if got is None:
            return False
        self._waiting.remove(state)
        state.blocks = got.blocks
        state.num_computed = got.cached_blocks * self._blocks.block_size
        if state.num_preemptions == 0:
            state.cached_tokens = state.num_computed
        self._run(state)
        self._admitted.append(state)
        return True

    def _preempt(self, now: int, state: RequestState) -> None:
        """Take a request's blocks; it waits and computes its known tokens again."""
        self._stop_running(state)
        self._free(state)
        state.num_computed = 0
        state.prompt_logprobs.clear()
        state.num_preemptions += 1
        state.mark(MarkKind.PREEMPTED, now)
        self.preemptions[NO_BLOCKS] += 1
        self._waiting.push(state)

    def pop_admitted(self) -> list[RequestState]:
        """Requests that got their blocks since the last call."""
        admitted, self._admitted = self._admitted, []
        return admitted

    def pinned_in_step(self, step_id: int) -> list[Stepping]:
        """The pinned requests of the step that was just scheduled."""
        # A decode is never pinned: what it computes is handed off by nobody.
        return [Stepping(state, state.num_computed + n, step_id) for state, n in self._step_chunks if state.pinned]

    def complete(self, output: StepOutput) -> list[Sampled]:
        """Take a step's result; requests that were removed meanwhile give their blocks back and are not reported."""
        assert output.error is None, output.error
        decodes, chunks = self._end_step()
        sampled = self._decoding.complete(decodes, output)
        if self._decoding.changes:
            for state in decodes:
                if state.removed:
                    self._free(state)
        for place, (state, count) in enumerate(chunks, start=len(decodes)):
            if state.removed:
                self._free(state)
                continue
            self._computed(state, count)
            if output.scores:
                state.prompt_logprobs.extend(output.scores[place])
            sample = output.tokens[place]
            if sample is not None:
                state.tokens.append(sample)
                sampled.append((state, sample, output.logprobs[place] if output.logprobs else None))
            if state.is_decoding:
                self._decoding.add(state)
        if output.logits_digests:
            for state, digest in zip([*decodes, *(state for state, _ in chunks)], output.logits_digests, strict=True):
                if digest and not state.removed:
                    state.digests.append(digest)
        return sampled

    @property
    def plain_tokens(self) -> PlainTokens | None:
        """Tokens of the last step that `complete` did not return: nothing else is to be told of them."""
        return self._decoding.plain

    def steady_steps(self, token: int) -> int:
        """Ends of steps to come that would only bring each of its requests `token`, if nothing else happens."""
        group = self._decoding.group
        if self._step_chunks or not self._step_decodes or self._decoding.changes:
            return 0
        count = len(group.states)
        if count < len(self._running) or len(self._waiting):
            return 0
        steps = group.plain_steps(token)
        if steps <= 0:
            return 0
        blocks = self._blocks
        return min(steps, blocks.free_blocks // count * blocks.block_size)

    def skip_steps(self, count: int, token: int) -> None:
        """What `complete` and `schedule` leave when they are called `count` times, as `steady_steps` foresaw."""
        group = self._decoding.group
        assert group.states is self._step_decodes and count <= group.plain_steps(token), count
        growing = group.passed(count, token)
        if growing:
            grown = self._blocks.extend_each([group.states[place].blocks for place in growing])
            assert grown, "there were blocks for all of these steps"
            group.grew(dict.fromkeys(growing))
        self.next_step += count

    def _computed(self, state: RequestState, count: int) -> None:
        """The next `count` tokens have their KV; blocks that they filled can be found."""
        hashes = state.request.block_hashes
        if state.num_computed < len(hashes) * self._blocks.block_size:
            self._blocks.publish(state.blocks, hashes, state.num_computed + count)
        state.num_computed += count

    def fail(self) -> list[RequestState]:
        """The step failed: nothing was computed. Returns the requests it held that are not over."""
        failed = []
        decodes, chunks = self._end_step()
        self._decoding.group.settle_all()
        for state in [*decodes, *(state for state, _ in chunks)]:
            if state.removed:
                self._free(state)
            else:
                failed.append(state)
        return failed

    def _end_step(self) -> tuple[Sequence[RequestState], list[tuple[RequestState, int]]]:
        ended = self._step_decodes, self._step_chunks
        self._step_decodes, self._step_chunks = (), []
        return ended

    def _free(self, state: RequestState) -> None:
        blocks, state.blocks = state.blocks, []
        self._blocks.free(blocks)

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def max_running(self) -> int:
        """Most requests that may hold blocks."""
        return self._budget.max_running

    @property
    def blocked_since(self) -> int | None:
        """Arrival of the waiting request that the last step had no blocks or no place for."""
        return None if self._blocked is None else self._blocked.arrived_ns

    @property
    def num_preempted(self) -> int:
        """Requests that lost their blocks and wait for new ones."""
        return self._waiting.num_preempted

    @property
    def step_running(self) -> bool:
        """A batch is out."""
        return bool(self._step_decodes or self._step_chunks)

    @property
    def num_requests(self) -> int:
        """Requests that are not over."""
        return len(self._states)

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
        return sum([state.num_uncomputed for state in self._states.values() if not state.is_decoding])

    def first_decodes(self) -> list[RequestState]:
        """Decodes that have had no step."""
        return self._decoding.first_ones()

    def decode_load(self) -> tuple[int, int]:
        """Requests that get one token a step, and tokens whose KV they hold."""
        return self._decoding.load(self._running)

    @property
    def decodes(self) -> list[RequestState]:
        """Requests that get one token a step."""
        self._decoding.group.settle_all()
        return [state for state in self._running if state.is_decoding]

    def owners(self) -> list[list[int]]:
        """The block references that requests hold, for `BlockManager.check`."""
        held = [state.blocks for state in self._states.values()]
        return held + [state.blocks for state, _ in self._in_flight() if state.removed]

    def _in_flight(self) -> list[tuple[RequestState, int]]:
        return [(state, 1) for state in self._step_decodes] + self._step_chunks

    def state(self) -> object:
        """Everything that decides future batches."""
        self._decoding.group.settle_all()
        return {
            "requests": {request_id: state.state_fields() for request_id, state in self._states.items()},
            "waiting": [state.request.request_id for state in self._waiting],
            "running": [state.request.request_id for state in self._running],
            "in_flight": [[state.request.request_id, count, state.removed] for state, count in self._in_flight()],
            "next_step": self.next_step,
            "promised": [self._promised, self._oldest_outside],
            "blocked": self._blocked.request.request_id if self._blocked else None,
            "preemptions": dict(self.preemptions),
        }

    def check(self) -> None:
        """Every request is waiting without blocks or running with enough of them."""
        self._decoding.group.settle_all()
        waiting, running = list(self._waiting), self._running
        assert len(waiting) + len(running) == len(self._states)
        assert len(running) + self._promised <= self._budget.max_running
        for state in waiting:
            assert not state.blocks and state.num_computed == 0, state
        for state in running:
            assert state.num_preemptions <= self._max_preemptions, state
            covered = len(state.blocks) * self._blocks.block_size
            assert state.num_computed <= min(covered, len(state.tokens)), state
        assert running == sorted(running, key=attrgetter("order"))
        if not self._decoding.changes and not self.step_running:
            self._decoding.group.check(self.decodes)
