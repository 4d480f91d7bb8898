"""A whole cluster on a virtual clock: the real request flow, worker cores and controller, and all between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.cluster.config import ClusterConfig
from services.core.actions import Cancel, Event, PeerMessage, Submit, WorkerLost, WorkerReport
from services.core.clock import NS_PER_MS, NS_PER_S
from services.core.decision_log import DecisionLog
from services.core.output import Output
from services.core.request import Request, WorkerRef
from services.core.slo import RequestSample
from services.core.workload import WorkloadRow
from services.sim.body import Body
from services.sim.config import SimConfig
from services.sim.cores import Cores, Edge
from services.sim.door import Client, Item, SimDoor
from services.sim.doors import DOOR, Doors
from services.sim.event_queue import REPORTS_FROM, EventQueue
from services.sim.faults import Fault, FaultKind
from services.sim.links import SimLinks
from services.sim.network import LinkClass, Network, Wire
from services.sim.outcome import SimRun, WorkerUse, sample_of
from services.sim.pools import Options, SimPool, check_pools, spec_of
from services.sim.reports import Mailbox
from services.sim.requests import make_request
from services.sim.supervisor import Supervisor
from services.sim.workers import SimWorker
from services.worker.assemble import build_worker_core, log_header

START_NS = NS_PER_S
"""Workers have reported when the first request may come."""
SETTLE_NS = NS_PER_S // 10
SAMPLES_AT_ONCE = 256
DELAYS = ("door_ms", "dispatch_ms", "stream_ms", "message_ms", "open_link_ms", "detect_ms")


@dataclass(slots=True)
class _Sessions:
    """Turns that wait for the end of the one before."""

    running: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, deque[tuple[int, WorkloadRow]]] = field(default_factory=dict)


class SimCluster:
    """One cluster and its clients. A cluster runs one workload.

    Args:
        config: of the cluster: router, scheduler, cache, hand-off, controller, limits; its pools' sizes are `pools`'.
        pools: workers and what they cost; every stage must be hosted.
    """

    def __init__(
        self,
        config: ClusterConfig,
        pools: Sequence[SimPool],
        sim: SimConfig | None = None,
        options: Options | None = None,
    ) -> None:
        self.config, self.sim, self.options = config, sim or SimConfig(), options or Options()
        check_pools(pools, self.sim.images.tokens is not None)
        self._pools = {pool.name: pool for pool in pools}
        self.queue = EventQueue()
        self.network = Network(self.queue)
        self.workers: dict[WorkerRef, SimWorker] = {}
        self._all_workers: list[SimWorker] = []
        delays = self.sim.delays
        self._door_ns, self._dispatch_ns, self.stream_ns, self._message_ns, self._open_ns, self._detect_ns = (
            round(getattr(delays, name) * NS_PER_MS) for name in DELAYS
        )
        # A log has an entry for every report, and a report may tell of a fault.
        quiet = self.sim.fast_forward and not self.options.faults and self.options.record is None
        quiet = quiet and config.frontdoor.replicas == 1
        self._mailbox = Mailbox(self.stream_ns) if quiet else None
        self._cut: list[tuple[str, str]] = []
        self._behind_cut: list[tuple[str, Callable[[Any], None], object]] = []
        self._cores = None if self.sim.host.cores is None else Cores(self.queue, self.sim.host)
        self.links = SimLinks(
            self.queue,
            self.network,
            self.workers,  # type: ignore[arg-type]
            {kind: _wire(self.sim, kind) for kind in LinkClass},
            self._open_ns,
            self._detect_ns,
            bool(self.options.faults),
            self.options.nvlink,
            self._cores,
        )
        self.links.cut = lambda here, there: self._is_cut(here.worker_id, there.worker_id)
        self._edge = Edge(self._cores, self.sim.host)
        self.doors = Doors(config, self.queue, self, self._mailbox, self.options, self._ended)
        self.controller = Supervisor(
            self.queue,
            {pool.name: tuple(f"{pool.name}-{number}" for number in range(pool.replicas)) for pool in pools},
            config.controller,
            round(delays.start_s * NS_PER_S),
            self.workers,
            self._make_worker,
            self._kill,
            self._mailbox,
        )
        self._samples: list[RequestSample] = []
        self._ended_ns = START_NS
        self._rows: Iterator[tuple[int, WorkloadRow]] = iter(())
        self._rows_left, self._due = True, 0
        self._sessions = _Sessions()
        self._timelines: list[Client] = []

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self, rows: Iterable[WorkloadRow]) -> SimRun:
        """Send every row at its time, and go on until all are answered; rows in order of arrival."""
        return self.outcome(tuple(self.samples(rows)))

    def samples(self, rows: Iterable[WorkloadRow]) -> Iterator[RequestSample]:
        """The same run, sample by sample as requests end; rows are read as time passes, so memory stays bounded."""
        self._rows = enumerate(rows)
        for fault in self.options.faults:
            self.queue.at(START_NS + round(fault.at_s * NS_PER_S), self._fault, fault)
        self.controller.begin()
        self._next_row()
        while self._rows_left or self._due:
            self.queue.stopped = False
            self.queue.run()
            yield from self._samples
            self._samples.clear()
        yield from self._samples
        self._samples.clear()
        self._ended_ns = self.queue.now
        self.queue.stopped = False
        self.queue.run(self._ended_ns + SETTLE_NS)  # the last acknowledgements

    def outcome(self, samples: tuple[RequestSample, ...] = ()) -> SimRun:
        """What the run gave; asked for after its last sample."""
        return SimRun(
            samples=samples,
            workers=tuple(self._use_of(worker) for worker in self._all_workers),
            duration_s=(self._ended_ns - START_NS) / NS_PER_S,
            events=self.queue.count,
            bytes_moved=self.network.bytes_moved,
            moves=self.doors.moves,
            placements=self.doors.placements,
            timelines=tuple((client.number, client.sent_ns, tuple(client.events or ())) for client in self._timelines),
            spans=tuple((worker.ref.worker_id, tuple(worker.spans or ())) for worker in self._all_workers),
        )

    def _use_of(self, worker: SimWorker) -> WorkerUse:
        use, pool = worker.use, self._pools[worker.body.pool]
        return WorkerUse(
            worker.ref.worker_id,
            worker.ref.incarnation,
            pool.name,
            pool.devices,
            use.busy_ns / NS_PER_S,
            use.steps,
            use.prefill_tokens,
            use.decode_tokens,
            use.peak_blocks / pool.num_blocks,
        )

    def _next_row(self, _: object = None) -> None:
        """Read the next row; it arrives at its time, or waits for the turn before it."""
        found = next(self._rows, None)
        if found is None:
            self._rows_left = False
            self._look_for_end()
            return
        number, row = found
        at_ns = START_NS + round(row.arrival_s * NS_PER_S)
        self._due += 1
        self.queue.at(max(at_ns, self.queue.now), self._arrive, (number, row))

    def _arrive(self, what: tuple[int, WorkloadRow]) -> None:
        row = what[1]
        self._next_row()
        if row.think_s is not None and row.turn and row.session in self._sessions.running:
            self._sessions.waiting.setdefault(row.session, deque()).append(what)
            return
        if row.session:
            self._sessions.running[row.session] = self._sessions.running.get(row.session, 0) + 1
        self._send(what)

    def _send(self, what: tuple[int, WorkloadRow]) -> None:
        """A client sends its request now."""
        number, row = what
        now = self.queue.now
        deadline_ns = now + round(self.config.frontdoor.default_deadline_s * NS_PER_S)
        size, wishes = self.config.cache.block_size_tokens, self.options.wishes
        request = make_request(number, row, size, deadline_ns, self.sim.images.tokens, wishes)
        self.queue.at(now + self._door_ns, self._at_door, Client(number, now, row, request))

    def _at_door(self, client: Client) -> None:
        self._edge.request(self.doors.submit, client)

    def _ended(self, client: Client) -> None:
        """A request is over: its sample is taken, and the next turn of its session thinks."""
        self._samples.append(sample_of(client, START_NS, self.options.gaps))
        if self.options.timelines:
            self._timelines.append(client)
        self._due -= 1
        session = client.row.session
        if session:
            waiting = self._sessions.waiting.get(session)
            if waiting:
                what = waiting.popleft()
                self.queue.at(self.queue.now + round((what[1].think_s or 0.0) * NS_PER_S), self._send, what)
            else:
                self._sessions.running.pop(session, None)
        self._look_for_end()

    def _look_for_end(self) -> None:
        if (not self._rows_left and not self._due) or len(self._samples) >= SAMPLES_AT_ONCE:
            self.queue.stopped = True

    # --- between front door and workers -------------------------------------------------------------------------

    def to_door(
        self, worker: SimWorker, outputs: Sequence[Output], report: WorkerReport | None, name: str = DOOR
    ) -> None:
        """An item of a worker's stream to a front door."""
        door = self.doors.by_name[name]
        item = door.item(worker, outputs, report)
        sequence = None if outputs else REPORTS_FROM + worker.number
        self._pass(worker.ref.worker_id, self.stream_ns, self._item_arrives, (door, item), sequence)

    def _item_arrives(self, what: tuple[SimDoor, Item]) -> None:
        outputs = () if self._cores is None else [output for output, _ in what[1][1]]
        self._edge.outputs(outputs, self._item_is_read, what)

    def _item_is_read(self, what: tuple[SimDoor, Item]) -> None:
        door, item = what
        if item[0].alive:  # what was under way dies with its process
            door.receive(item)

    def dispatch(self, to: WorkerRef, request: Request) -> None:
        """A request on its way to a worker."""
        self._pass(to.worker_id, self._dispatch_ns, self._call_arrives, (to, Submit(request.front_door, request)))

    def cancel(self, to: WorkerRef, event: Cancel) -> None:
        """A cancel on its way to a worker."""
        self._pass(to.worker_id, self._dispatch_ns, self._call_arrives, (to, event))

    def _call_arrives(self, what: tuple[WorkerRef, Event]) -> None:
        to, event = what
        worker = self.workers.get(to)
        if worker is None:
            self.doors.lost(to, "its process died")
            return
        if isinstance(event, Submit):
            worker.submit(event)
        else:
            worker.feed(event)

    def _pass(
        self,
        worker_id: str,
        delay_ns: int,
        arrive: Callable[[Any], None],
        what: object,
        sequence: int | None = None,
    ) -> None:
        """Between the front door and a worker: in order, after a delay, and not before a partition heals."""
        if self._cut and self._is_cut(DOOR, worker_id):
            self._behind_cut.append((worker_id, arrive, what))
        else:
            self.queue.at(self.queue.now + delay_ns, arrive, what, sequence)

    def tell_peer(self, sender: WorkerRef, to: WorkerRef, message: PeerMessage) -> None:
        """A control message on its way to another worker."""
        if not (self._cut and self._is_cut(sender.worker_id, to.worker_id)):
            self.queue.at(self.queue.now + self._message_ns, self._message_arrives, (sender, to, message))

    def _message_arrives(self, what: tuple[WorkerRef, WorkerRef, PeerMessage]) -> None:
        sender, to, message = what
        worker = self.workers.get(to)
        if worker is not None:
            worker.feed(message)
        elif sender in self.workers:
            self.workers[sender].feed(WorkerLost("peers", to, "its process died"))

    # --- workers ------------------------------------------------------------------------------------------------

    def _make_worker(self, ref: WorkerRef, pool_name: str) -> SimWorker:
        """A worker's process begins."""
        pool, config = self._pools[pool_name], self.config
        built = (spec_of(config, pool, ref.worker_id), ref, pool.num_blocks, ref.worker_id, 0)
        core = build_worker_core(*built)
        log, record = None, self.options.record
        if record is not None:
            log = DecisionLog(record(f"{ref.worker_id}.{ref.incarnation:x}"), core, "worker", log_header(*built))
        number = int(ref.worker_id.rpartition("-")[2])
        body = Body(
            pool.name,
            pool.roles,
            pool.cost,
            pool.block_bytes,
            pool.places[min(number, len(pool.places) - 1)],
            self._cores,
            pool.threads,
            round(config.worker.report_every_s * NS_PER_S),
            self.sim.fast_forward,
            self.options.check,
            tuple(self.doors.by_name),
        )
        worker = SimWorker(len(self._all_workers), ref, body, core, self, log)
        if self.options.timelines:
            worker.spans = []
        self.workers[ref] = worker
        if self._cut:
            self._listen()
        self._all_workers.append(worker)
        return worker

    # --- faults -------------------------------------------------------------------------------------------------

    def _fault(self, fault: Fault) -> None:
        lasts_ns = round(fault.lasts_s * NS_PER_S)
        match fault.kind:
            case FaultKind.CRASH:
                for worker in self._named(fault.target):
                    self._kill(worker, "crash")
            case FaultKind.STALL:
                for worker in self._named(fault.target):
                    self.doors.settle()
                    worker.stall()
                    self.queue.at(self.queue.now + lasts_ns, self._wake, worker)
            case FaultKind.PARTITION:
                self.doors.settle()
                self._cut.append((fault.target, fault.other))
                for here in self._named(fault.target):
                    for there in self._named(fault.other):
                        self.links.cut_between(here.ref, there.ref)
                self._listen()
                self.queue.at(self.queue.now + lasts_ns, self._heal, (fault.target, fault.other))
            case FaultKind.SLOW_LINK:
                self.network.slow(fault.target, fault.factor)
                self.queue.at(self.queue.now + lasts_ns, self._fast_again, fault.target)

    def _named(self, worker_id: str) -> list[SimWorker]:
        return [worker for ref, worker in self.workers.items() if ref.worker_id == worker_id]

    def _kill(self, worker: SimWorker, reason: str) -> None:
        """A process dies; its links break at once, everybody else hears of it a little later."""
        if not worker.alive:
            return
        self.doors.settle()
        worker.kill()
        del self.workers[worker.ref]
        self.links.lost(worker.ref)
        self.queue.at(self.queue.now + self._detect_ns, self._death_is_known, (worker.ref, reason))

    def _death_is_known(self, what: tuple[WorkerRef, str]) -> None:
        self.controller.lost(*what)
        self.doors.lost(*what)

    def _wake(self, worker: SimWorker) -> None:
        worker.wake()

    def _heal(self, pair: tuple[str, str]) -> None:
        self._cut.remove(pair)
        self._listen()
        waiting, self._behind_cut = self._behind_cut, []
        for worker_id, arrive, what in waiting:
            self._pass(worker_id, 0, arrive, what)

    def _listen(self) -> None:
        """The front door hears those workers that no partition holds back."""
        for ref, worker in self.workers.items():
            if self._is_cut(DOOR, ref.worker_id):
                worker.cut_off()
            else:
                worker.reconnect()

    def _fast_again(self, name: str) -> None:
        self.network.slow(name, 1.0)

    def _is_cut(self, here: str, there: str) -> bool:
        return (here, there) in self._cut or (there, here) in self._cut


def _wire(sim: SimConfig, kind: LinkClass) -> Wire:
    wire = getattr(sim.wires, kind.value)
    return Wire(wire.latency_us / 1e6, wire.gbytes_per_s * 1e9)
