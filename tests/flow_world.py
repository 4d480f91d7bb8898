"""The world of tests/world.py with a request flow, clients, worker restarts, and KV that can be wrong.

Every KV slot holds a hash of the whole context up to it, read from the slot before: a block that was sent to the wrong
place, reused too early or found under a wrong prefix gives a wrong token, and the client notices.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial

from services.core.actions import (
    DISCARD,
    Action,
    Cancel,
    CancelRemote,
    Dispatch,
    Emit,
    Event,
    Outputs,
    PostReceive,
    PostSend,
    Reject,
    SendPeer,
    StreamGap,
    Submit,
    Tick,
    WorkerLost,
    WorkerReport,
)
from services.core.batch import ScheduledBatch, StepOutput
from services.core.output import by_request
from services.core.peer import LinkKey
from services.core.request import FinishReason, Request, WorkerRef
from services.frontdoor.stream import GOOD_ENDS, TokenStream
from services.kvcache.block import prompt_block_hashes
from services.router.config import RouterConfig
from services.router.flow import RequestFlow
from tests.factories import BLOCK_SIZE, ROOT, make_core, make_request
from tests.world import MS, World

S = 1000 * MS
REPORT_EVERY = 250 * MS
RESTART_AFTER = S
OUTLIVES = 2 * S
VOCAB = 97


def mix(*parts: int) -> int:
    """One number of several."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "little")


def expected_tokens(request: Request) -> list[int]:
    """The output of an undisturbed run."""
    state = 0
    for token in request.prompt:
        state = mix(state, token)
    output: list[int] = []
    while not output or request.sampling.finish_reason(output[-1], len(output)) is None:
        output.append(mix(state, request.sampling.seed, len(request.prompt) + len(output)) % VOCAB)
        state = mix(state, output[-1])
    return output


@dataclass
class Client:
    """Reads one stream and checks every token of it."""

    request: Request
    expected: list[int]
    stream: TokenStream = field(default_factory=TokenStream)
    tokens: list[int] = field(default_factory=list)
    error: str = ""
    retryable: bool = False
    cancelled: bool = False

    def push(self, emit: Emit) -> None:
        """Take outputs as the front door does."""
        assert not self.over, "nothing comes after the end"
        for output in by_request(emit.outputs):
            self.tokens += self.stream.push(output)
            assert self.tokens == self.expected[: len(self.tokens)], (self.request.request_id, self.tokens)
        if (end := self.stream.end) is not None and end.finish not in GOOD_ENDS:
            self.error, self.retryable = end.reason, end.finish is FinishReason.DEADLINE

    @property
    def complete(self) -> bool:
        """Every token came, and a good end."""
        return self.stream.end is not None and not self.error and self.tokens == self.expected

    @property
    def over(self) -> bool:
        """Nothing more is to come."""
        return bool(self.error) or self.cancelled or self.stream.end is not None


class FlowWorld(World):
    """Prefill and decode workers, one front door, and a controller that restarts what dies.

    Args:
        seed: of every delay.
        blocks: KV blocks of each worker.
    """

    def __init__(self, seed: int, prefill: int = 2, decode: int = 2, blocks: int = 40, **router: object) -> None:
        chance = random.Random(seed)
        super().__init__(lambda: chance.randrange(20) * MS)
        self.flow = RequestFlow("door", RouterConfig.model_validate(router), BLOCK_SIZE)
        self.clients: dict[str, Client] = {}
        self.drop_next_message = False
        self.lose_next_item_of: WorkerRef | None = None
        self._blocks = blocks
        self._kv: dict[tuple[WorkerRef, int, int], int] = {}
        self._reports: dict[WorkerRef, int] = defaultdict(int)
        self._dispatches: dict[WorkerRef, int] = defaultdict(int)
        self._to_door: dict[WorkerRef, int] = defaultdict(int)
        self._stalled: set[LinkKey] = set()
        for role, count in (("prefill", prefill), ("decode", decode)):
            for number in range(count):
                self.start(WorkerRef(f"{role}-{number}", 1))

    # --- workers ------------------------------------------------------------------------------------------------

    def start(self, ref: WorkerRef) -> None:
        """A worker process begins."""
        role = ref.worker_id.split("-")[0]
        scheduler = {"max_batch_tokens": 8 if role == "prefill" else 64}
        self.add(ref, make_core(ref, (role,), self._blocks, scheduler=scheduler))
        self.later(0, lambda: self._report(ref))

    def kill(self, ref: WorkerRef) -> None:
        """kill -9; the controller starts a new process."""
        super().kill(ref)
        self.stopped.pop(ref, None)
        self.later(self._delay(), lambda: self.tell(WorkerLost("x", ref, "killed")))
        successor = WorkerRef(ref.worker_id, ref.incarnation + 1)
        self.later(RESTART_AFTER, lambda: self.start(successor))

    def stop(self, ref: WorkerRef) -> None:
        """SIGSTOP."""
        self.stopped.setdefault(ref, [])

    def wake(self, ref: WorkerRef) -> None:
        """SIGCONT: everything that waited happens now."""
        for event in self.stopped.pop(ref, []):
            self.feed(ref, event)
        self.feed(ref, Tick("world"))

    def feed(self, ref: WorkerRef, event: Event) -> None:
        """Give a worker an event, now or when it wakes."""
        if ref in self.stopped:
            self.stopped[ref].append(event)
        else:
            super().feed(ref, event)

    def stall(self, link: LinkKey) -> None:
        """No byte moves on a link any more."""
        self._stalled.add(link)

    def _report(self, ref: WorkerRef) -> None:
        if ref not in self.cores:
            return
        if ref not in self.stopped:
            self._reports[ref] += 1
            role = ref.worker_id.split("-")[0]
            load = asdict(self.cores[ref].load())
            seen = self._dispatches[ref]
            self.tell(WorkerReport(ref, 1, role, (role,), False, self._reports[ref], **load, dispatch_sequence=seen,
                                   store_address="h:1"))  # fmt: skip
        self.later(REPORT_EVERY, lambda: self._report(ref))

    # --- engine and links ---------------------------------------------------------------------------------------

    def compute(self, ref: WorkerRef, batch: ScheduledBatch) -> StepOutput:
        """Write each token's slot from the one before it; sample from the last."""
        sampled: list[int | None] = []
        for row in batch.rows:
            state = 0
            for position, token in enumerate(row.token_ids, start=row.start):
                if position:
                    state = self._kv[self._slot(ref, row.block_table, position - 1)]
                state = mix(state, token)
                self._kv[self._slot(ref, row.block_table, position)] = state
            sampled.append(mix(state, row.sample.seed, row.end) % VOCAB if row.sample else None)
        return StepOutput(batch.step_id, tuple(sampled))

    def _slot(self, ref: WorkerRef, table: tuple[int, ...], position: int) -> tuple[WorkerRef, int, int]:
        return ref, table[position // BLOCK_SIZE], position % BLOCK_SIZE

    def copy(self, send: PostSend, receive: PostReceive) -> None:
        """The bytes of a part."""
        link = send.link
        for theirs, ours in zip(send.blocks, receive.blocks, strict=True):
            for offset in range(BLOCK_SIZE):
                value = self._kv.get((link.sender, theirs, offset))
                if ours != DISCARD and value is not None:
                    self._kv[link.receiver, ours, offset] = value

    def _match(self, link: LinkKey) -> None:
        if link not in self._stalled:
            super()._match(link)

    # --- front door ---------------------------------------------------------------------------------------------

    def submit(self, name: str, prompt: tuple[int, ...], deadline_ns: int | None = None, **fields: object) -> Client:
        """A client's call."""
        deadline_ms = None if deadline_ns is None else deadline_ns // MS
        request = make_request(name, prompt, hash_root=ROOT, deadline_unix_ms=deadline_ms, seed=mix(*prompt), **fields)
        assert request.block_hashes == prompt_block_hashes(ROOT, prompt, BLOCK_SIZE)
        client = self.clients[name] = Client(request, expected_tokens(request))
        self.tell(Submit("door", request, deadline_ns))
        if deadline_ns is not None:
            self.later(deadline_ns + OUTLIVES - self.now, lambda: self.assert_gone(name))
        return client

    def cancel(self, name: str) -> None:
        """The client goes away."""
        if not self.clients[name].over:
            self.clients[name].cancelled = True
            self.tell(Cancel("door", name, FinishReason.CANCELLED, "client"))

    def assert_gone(self, name: str) -> None:
        """No worker that can act holds anything of a request."""
        for ref, core in self.cores.items():
            if ref not in self.stopped:
                assert name not in core.request_ids(), f"{name} outlives its deadline on {ref.worker_id}"

    def tell(self, event: Event) -> None:
        """Give the flow an event; every invariant is checked after it."""
        actions = self.flow.handle(self.now, event)
        self.flow.check()
        for action in actions:
            self._perform_for_door(action)

    def _perform_for_door(self, action: Action) -> None:
        match action:
            case Dispatch(to=to, request=request):
                self._dispatches[to] += 1
                self._call(to, Submit("door", request))
            case CancelRemote(to=to):
                self._call(to, Cancel("door", action.request_id, action.finish, action.reason, action.attempt))
            case Emit(destination=name):
                if not self.clients[name].cancelled:
                    self.clients[name].push(action)
            case Reject(request_id=name):
                client = self.clients[name]
                assert not client.over
                client.error, client.retryable = action.reason, action.retry_after_ms is not None
            case _:
                raise AssertionError(action)

    def _call(self, to: WorkerRef, event: Event) -> None:
        if to in self.cores:
            self._at(to, event, self._delay())
        else:
            self.later(self._delay(), lambda: self.tell(WorkerLost("x", to, "the call failed")))

    def emit(self, ref: WorkerRef, action: Emit) -> None:
        """Items of a worker's stream keep their order; those under way die with it."""
        arrival = self._to_door[ref] = max(self.now + self._delay(), self._to_door[ref])

        def deliver() -> None:
            if ref == self.lose_next_item_of:
                self.lose_next_item_of = None
                self.tell(StreamGap("door", ref))
            elif ref in self.cores:
                self.tell(Outputs(ref, by_request(action.outputs)))

        self.later(arrival - self.now, deliver)

    def _perform(self, ref: WorkerRef, action: Action) -> None:
        if isinstance(action, SendPeer) and self.drop_next_message:
            self.messages_lost = True
            self.drop_next_message = False
            return
        super()._perform(ref, action)

    def wakes(self) -> list[tuple[int, Callable[[], None]]]:
        """Workers that can act, and the flow."""
        found = [
            (wake, partial(self.feed, ref, Tick("world")))
            for ref, core in self.cores.items()
            if ref not in self.stopped and (wake := core.next_wake()) is not None
        ]
        wake = self.flow.next_wake()
        return found if wake is None else [*found, (wake, lambda: self.tell(Tick("door")))]
