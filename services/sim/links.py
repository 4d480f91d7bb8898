"""KV links between simulated workers: both ends of a part meet, its bytes take their time, both ends are answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from services.core.actions import Event, LinkLost, LinkUp, PostReceive, PostSend, ReceiveDone, SendDone
from services.core.clock import NS_PER_S
from services.core.peer import LinkKey
from services.core.request import WorkerRef
from services.sim.cores import HANDOFF, Cores
from services.sim.event_queue import EventQueue
from services.sim.network import Flow, LinkClass, Network, Place, Port, Wires, link_class, ports_between

SOURCE = "link"
LAYER_GROUPS = 10
"""Pieces that a part is sent in while the step that computes it runs; the last one follows the step's end."""


class LinkEnd(Protocol):
    """A worker as its links see it."""

    place: Place
    block_bytes: int
    steps_done: int

    def feed(self, event: Event) -> None:
        """Tell it something."""


@dataclass(slots=True, eq=False)
class _Link:
    """One link.

    Attributes:
        sends, receives: posts that wait or are under way, in order.
        opened: ends that opened it.
        ready_ns: when it can carry bytes; None while an end lacks.
        waits_for_step: the part at the head waits for this step of its sender.
        way: latency, bandwidth and shared ports between its ends.
    """

    key: LinkKey
    sends: deque[PostSend] = field(default_factory=deque)
    receives: deque[PostReceive] = field(default_factory=deque)
    opened: list[WorkerRef] = field(default_factory=list)
    ready_ns: int | None = None
    busy: bool = False
    flow: Flow | None = None
    waits_for_step: int | None = None
    way: tuple[int, float, tuple[Port, ...]] | None = None


class SimLinks:
    """Every link of a cluster.

    Args:
        ends: live workers.
        wires: times of each class of link.
        open_ns: to make a link.
        detect_ns: from a break to the news of it.
        timeouts: whether posts that nobody answers end at their timeout; only faults can make that happen.
        nvlink: whether the devices of a host are joined by it.
        cores: of the host that all workers share; what passes between them is work of two of its threads. None: wires
            and devices do it.
    """

    def __init__(
        self,
        queue: EventQueue,
        network: Network,
        ends: dict[WorkerRef, LinkEnd],
        wires: Wires,
        open_ns: int,
        detect_ns: int,
        timeouts: bool,
        nvlink: bool,
        cores: Cores | None = None,
    ) -> None:
        self._queue = queue
        self._network = network
        self._ends = ends
        self._wires = wires
        self._open_ns = open_ns
        self._detect_ns = detect_ns
        self._timeouts = timeouts
        self._nvlink = nvlink
        self._cores = cores
        self._links: dict[LinkKey, _Link] = {}
        self._lost: set[LinkKey] = set()  # only asked, never walked through
        self._stepping: dict[WorkerRef, list[_Link]] = {}
        self.cut: Callable[[WorkerRef, WorkerRef], bool] = lambda _here, _there: False

    def open(self, me: WorkerRef, key: LinkKey) -> None:
        """One end opens; bytes can flow when both have."""
        link = self._links.setdefault(key, _Link(key))
        link.opened.append(me)
        # A grant that was under way when its link broke names it still; the other end will not open it again.
        alive = key not in self._lost and {key.sender, key.receiver} <= self._ends.keys()
        if not alive or self.cut(key.sender, key.receiver):
            self._queue.at(self._queue.now + self._detect_ns, self._lose, (link, "no peer"))
        elif len(link.opened) == 2:
            link.ready_ns = self._queue.now + self._open_ns
            self._queue.at(link.ready_ns, self._up, link)

    def _up(self, link: _Link) -> None:
        if self._links.get(link.key) is link:
            for ref in link.opened:
                self._tell(ref, LinkUp(SOURCE, link.key))
            self._match(link)

    def post(self, me: WorkerRef, action: PostSend | PostReceive) -> None:
        """Queue an operation."""
        link = self._links.get(action.link)
        if link is None:
            self._queue.at(self._queue.now, self._answer_late, (me, action, "link: not open"))
            return
        if isinstance(action, PostSend):
            link.sends.append(action)
        else:
            link.receives.append(action)
        if self._timeouts:
            self._queue.at(self._queue.now + action.timeout_ns, self._overdue, (link, action))
        self._match(link)

    def step_ended(self, me: WorkerRef) -> None:
        """A step of a worker ended: what waits for it goes on."""
        if self._stepping:
            for link in self._stepping.pop(me, ()):
                self._last_group(link)

    def lost(self, worker: WorkerRef) -> None:
        """A process is gone, and its links with it."""
        for link in [each for each in self._links.values() if worker in (each.key.sender, each.key.receiver)]:
            self._lose((link, "the peer's process died"))

    def cut_between(self, here: WorkerRef, there: WorkerRef) -> None:
        """Nothing passes between two workers any more."""
        for link in [each for each in self._links.values() if {each.key.sender, each.key.receiver} == {here, there}]:
            self._lose((link, "partition"))

    def close(self, key: LinkKey, reason: str) -> None:
        """An end condemns a link."""
        if key in self._links:
            self._lose((self._links[key], reason))

    # --- a part -------------------------------------------------------------------------------------------------

    def _match(self, link: _Link) -> None:
        if link.busy or link.ready_ns is None or self._queue.now < link.ready_ns:
            return
        if not link.sends or not link.receives:
            return
        send, receive = link.sends[0], link.receives[0]
        if (send.transfer_id, send.attempt, send.part) != (receive.transfer_id, receive.attempt, receive.part):
            self._lose((link, "the ends disagree"))
            return
        link.busy = True
        size = self._size(link)
        if send.step_id is not None and self._ends[link.key.sender].steps_done < send.step_id:
            link.waits_for_step = send.step_id
            self._start(link, size * (LAYER_GROUPS - 1) / LAYER_GROUPS, self._last_group)
        else:
            self._start(link, size, self._arrived)

    def _size(self, link: _Link) -> float:
        return float(len(link.sends[0].blocks) * self._ends[link.key.sender].block_bytes)

    def _start(self, link: _Link, size: float, then: Callable[[_Link], None]) -> None:
        latency_ns, bytes_per_s, ports = link.way = link.way or self._way(link.key)
        if self._cores is not None:
            alone_ns = latency_ns + size * self._network.slowed(ports) / bytes_per_s * NS_PER_S
            self._network.bytes_moved += size
            self._cores.run(HANDOFF, alone_ns, 2, lambda _: self._if_alive((link, then)), 0)
            return

        def passed() -> None:
            link.flow = None
            self._queue.at(self._queue.now + latency_ns, self._if_alive, (link, then))

        link.flow = self._network.start(ports, bytes_per_s, size, passed)

    def _way(self, key: LinkKey) -> tuple[int, float, tuple[Port, ...]]:
        here, there = self._ends[key.sender].place, self._ends[key.receiver].place
        kind: LinkClass = link_class(here, there, self._nvlink)
        wire = self._wires[kind]
        return round(wire.latency_s * NS_PER_S), wire.bytes_per_s, ports_between(here, there, kind)

    def _if_alive(self, what: tuple[_Link, Callable[[_Link], None]]) -> None:
        link, then = what
        if self._links.get(link.key) is link:
            then(link)

    def _last_group(self, link: _Link) -> None:
        """All other layers are there; the last ones are sent when the step has computed them."""
        if self._links.get(link.key) is not link or link.flow is not None or link.waits_for_step is None:
            return
        sender = link.key.sender
        if self._ends[sender].steps_done < link.waits_for_step:
            self._stepping.setdefault(sender, []).append(link)
            return
        link.waits_for_step = None
        self._start(link, self._size(link) / LAYER_GROUPS, self._arrived)

    def _arrived(self, link: _Link) -> None:
        link.busy = False
        send, receive = link.sends.popleft(), link.receives.popleft()
        self._answer(link.key.sender, send, "")
        self._answer(link.key.receiver, receive, "")
        if self._links.get(link.key) is link:
            self._match(link)

    # --- ends ---------------------------------------------------------------------------------------------------

    def _overdue(self, what: tuple[_Link, PostSend | PostReceive]) -> None:
        """A post that nobody answered condemns its link at its timeout."""
        link, post = what
        waiting = any(post is each for each in (*link.sends, *link.receives))
        if waiting and self._links.get(link.key) is link:
            self._lose((link, "timeout"))

    def _lose(self, what: tuple[_Link, str]) -> None:
        """A link breaks: every post of it fails, then both ends are told."""
        link, reason = what
        if self._links.get(link.key) is not link:
            return
        del self._links[link.key]
        self._lost.add(link.key)
        if link.flow is not None:
            self._network.stop(link.flow)
        for ref, posts in ((link.key.sender, link.sends), (link.key.receiver, link.receives)):
            for post in posts:
                self._queue.at(self._queue.now, self._answer_late, (ref, post, f"link: {reason}"))
        for ref in link.opened:
            self._queue.at(
                self._queue.now + self._detect_ns, self._tell_late, (ref, LinkLost(SOURCE, link.key, reason))
            )

    def _answer(self, ref: WorkerRef, post: PostSend | PostReceive, error: str) -> None:
        kind = SendDone if isinstance(post, PostSend) else ReceiveDone
        self._tell(ref, kind(SOURCE, post.link, post.transfer_id, post.attempt, post.part, error))

    def _answer_late(self, what: tuple[WorkerRef, PostSend | PostReceive, str]) -> None:
        self._answer(*what)

    def _tell_late(self, what: tuple[WorkerRef, Event]) -> None:
        self._tell(*what)

    def _tell(self, ref: WorkerRef, event: Event) -> None:
        end = self._ends.get(ref)
        if end is not None:
            end.feed(event)
