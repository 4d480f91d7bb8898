"""Several worker cores on a virtual clock, with a runner, links and control messages that can fail on purpose.

The model of this world: the token after position p of a request is a hash of its id and p, so every output can be
checked; a message arrives after a delay, in order for each pair; a part arrives when both of its ends are posted.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from services.core.actions import (
    Action,
    CloseLink,
    Emit,
    Event,
    LinkLost,
    LinkUp,
    OpenLink,
    PeerMessage,
    PostReceive,
    PostSend,
    ReceiveDone,
    RequestOutput,
    RunStep,
    SendDone,
    SendPeer,
    StepDone,
    Tick,
    WorkerLost,
)
from services.core.batch import ScheduledBatch, StepOutput
from services.core.output import by_request
from services.core.peer import LinkKey
from services.core.request import WorkerRef
from services.scheduling.host import WorkerCore

MS = 1_000_000
NOBODY = WorkerRef("", 0)


def token_at(request_id: str, position: int) -> int:
    """The token that this world's model samples for a position."""
    return hashlib.blake2b(f"{request_id}/{position}".encode(), digest_size=2).digest()[0]


def identity(post: PostSend | PostReceive) -> tuple[str, int, int, int]:
    """What both ends of a part must agree on."""
    return post.transfer_id, post.attempt, post.part, len(post.blocks)


class World:
    """Worker cores and everything between them.

    Args:
        delay: returns the next delay in ns; called for every step, message and transfer.
    """

    def __init__(self, delay: Callable[[], int]) -> None:
        self.now = 0
        self.cores: dict[WorkerRef, WorkerCore] = {}
        self.outputs: list[tuple[WorkerRef, RequestOutput]] = []
        self.fail_next_part: str | None = None
        self.lose_next_part = False
        self.stopped: dict[WorkerRef, list[Event]] = {}
        self.messages_lost = False
        self.seen_parts: list[tuple[str, int, int]] = []
        self._delay = delay
        self._heap: list[tuple[int, int, WorkerRef, Event | Callable[[], None]]] = []
        self._count = 0
        self._arrival: dict[tuple[WorkerRef, WorkerRef], int] = defaultdict(int)
        self._posts: dict[tuple[WorkerRef, LinkKey], list[PostSend | PostReceive]] = defaultdict(list)
        self._broken: set[LinkKey] = set()
        self._steps_done: dict[WorkerRef, int] = defaultdict(int)

    def add(self, ref: WorkerRef, core: WorkerCore) -> None:
        """A worker starts."""
        self.cores[ref] = core

    def kill(self, ref: WorkerRef) -> None:
        """A worker dies: its links break at once, the others hear of it a little later."""
        del self.cores[ref]
        for _, link in list(self._posts):
            if ref in (link.sender, link.receiver):
                self.break_link(link)
        for other in self.cores:
            self._at(other, WorkerLost("world", ref, "killed"), self._delay())

    def break_link(self, link: LinkKey) -> None:
        """A process group dies: every post of it fails, then both ends are told."""
        if link in self._broken:
            return
        self._broken.add(link)
        for end in (link.sender, link.receiver):
            for post in self._posts.pop((end, link), []):
                self._answer(end, post, "link")
            self._at(end, LinkLost("world", link, "broken"), self._delay())

    @property
    def links(self) -> list[LinkKey]:
        """Links with a post under way."""
        return [link for (_, link), posts in self._posts.items() if posts]

    def feed(self, ref: WorkerRef, event: Event) -> None:
        """Give a worker an event now; every invariant is checked after it."""
        if ref not in self.cores:
            return
        core = self.cores[ref]
        if isinstance(event, StepDone):
            self._steps_done[ref] = event.output.step_id
            for link in self.links:
                self._match(link)
        actions = core.handle(self.now, event)
        core.check()
        for action in actions:
            self._perform(ref, action)

    def run(self, until: int) -> None:
        """Advance the clock, delivering everything due and every wake."""
        while True:
            wakes = self.wakes()
            wake = min((each[0] for each in wakes), default=until)
            due = min(self._heap[0][0] if self._heap else until, max(wake, self.now))
            if due >= until:
                self.now = until
                return
            self.now = due
            if self._heap and self._heap[0][0] <= due:
                _, _, ref, event = heapq.heappop(self._heap)
                if callable(event):
                    event()
                else:
                    self.feed(ref, event)
            else:
                self.now += 1
                for at, tick in wakes:
                    if at <= self.now:
                        tick()

    def wakes(self) -> list[tuple[int, Callable[[], None]]]:
        """When whose time passes, and how it is told."""
        return [
            (wake, partial(self.feed, ref, Tick("world")))
            for ref, core in self.cores.items()
            if (wake := core.next_wake()) is not None
        ]

    def later(self, delay: int, do: Callable[[], None]) -> None:
        """Something happens that is no worker's event."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay, self._count, NOBODY, do))

    def _at(self, ref: WorkerRef, event: Event, delay: int) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay, self._count, ref, event))

    def _perform(self, ref: WorkerRef, action: Action) -> None:
        match action:
            case RunStep(batch=batch):
                self._at(ref, StepDone("runner", self.compute(ref, batch)), self._delay())
            case Emit():
                self.emit(ref, action)
            case SendPeer(to=to, body=body):
                # Messages of one pair keep their order.
                arrival = max(self.now + self._delay(), self._arrival[ref, to])
                self._arrival[ref, to] = arrival
                self._at(to, PeerMessage(ref, 0, body), arrival - self.now)
            case OpenLink(link=link):
                lost = link in self._broken or not {link.sender, link.receiver} <= set(self.cores)
                self._at(ref, LinkLost("world", link, "no peer") if lost else LinkUp("world", link), self._delay())
                if lost:
                    self._broken.add(link)
            case CloseLink(link=link):
                self.break_link(link)
            case PostSend() | PostReceive():
                self._post(ref, action)
            case _:
                raise AssertionError(f"this world cannot perform {action}")

    def compute(self, ref: WorkerRef, batch: ScheduledBatch) -> StepOutput:
        """What the runner of this world answers."""
        tokens = tuple(token_at(row.request_id, row.end) if row.sample else None for row in batch.rows)
        return StepOutput(batch.step_id, tokens)

    def emit(self, ref: WorkerRef, action: Emit) -> None:
        """Outputs leave a worker."""
        self.outputs += [(ref, output) for output in by_request(action.outputs)]

    def copy(self, send: PostSend, receive: PostReceive) -> None:
        """The bytes of a part arrive; this world has none."""

    def _post(self, ref: WorkerRef, post: PostSend | PostReceive) -> None:
        if post.link in self._broken:
            self._answer(ref, post, "link")
            return
        self._posts[ref, post.link].append(post)
        self._match(post.link)
        self.later(post.timeout_ns, lambda: self._overdue(ref, post))

    def _overdue(self, ref: WorkerRef, post: PostSend | PostReceive) -> None:
        """A post that nobody answered condemns its link at its timeout, or when its process runs again."""
        if not any(each is post for each in self._posts.get((ref, post.link), [])):
            return
        if ref in self.stopped:
            self.later(10 * MS, lambda: self._overdue(ref, post))
        else:
            self.break_link(post.link)

    def _match(self, link: LinkKey) -> None:
        sends, receives = self._posts[link.sender, link], self._posts[link.receiver, link]
        while sends and receives:
            if sends[0].step_id is not None and sends[0].step_id > self._steps_done[link.sender]:
                return  # the step that computes it runs
            if identity(sends[0]) != identity(receives[0]):
                assert self.messages_lost, "both ends derive the same schedule"
                self.break_link(link)  # as the real one does when it is asked for something else
                return
            if self.lose_next_part:  # the sender is done with it, the receiver waits on
                self.lose_next_part, self.messages_lost = False, True
                self._answer(link.sender, sends.pop(0), "")
                return
            send, receive = sends.pop(0), receives.pop(0)
            self.seen_parts.append((send.transfer_id, send.attempt, send.part))
            error, self.fail_next_part = self.fail_next_part or "", None
            if not error:
                self.copy(send, receive)
            self._answer(link.sender, send, "")
            self._answer(link.receiver, receive, error)

    def _answer(self, ref: WorkerRef, post: PostSend | PostReceive, error: str) -> None:
        kind = SendDone if isinstance(post, PostSend) else ReceiveDone
        self._at(ref, kind("world", post.link, post.transfer_id, post.attempt, post.part, error), self._delay())
