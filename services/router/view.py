"""What one front door knows of the workers: their last reports and its own reservations since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.core.actions import WorkerReport
from services.core.request import WorkerRef
from services.router.fleet import Fleet


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as placement sees it.

    Attributes:
        report: the last one.
        reported_ns: when it arrived, on this process's clock.
        reserved_prompt_tokens: prompt tokens dispatched to it that the report does not count yet.
        reserved_prompts: how many prompts these are.
        reserved_decodes: requests placed on it for decoding that have not sent a token from there.
        turn: number of the placement that chose it last; between -1 and 0 while none did.
    """

    report: WorkerReport
    reported_ns: int
    reserved_prompt_tokens: int = 0
    reserved_prompts: int = 0
    reserved_decodes: int = 0
    turn: float = 0.0

    @property
    def worker(self) -> WorkerRef:
        """The process."""
        return self.report.source


@dataclass(frozen=True, slots=True)
class ClusterView:
    """An immutable snapshot.

    Attributes:
        workers: by worker id.
        shape: the same number as long as the same processes have the same roles and drain or not.
    """

    workers: Mapping[str, WorkerView]
    shape: int = 0


@dataclass(slots=True)
class _Known:
    report: WorkerReport
    reported_ns: int


class ViewBuilder:
    """Folds reports, dispatches and placements into snapshots.

    A dispatch is a reservation until a report shows that the worker has seen it (protocol section 5); without that,
    every request between two reports would go to the same worker.

    Args:
        front_door: whose view it is.

    Attributes:
        fleet: the same as columns of numbers.
    """

    def __init__(self, front_door: str) -> None:
        self.fleet = Fleet(front_door)
        self._known: dict[str, _Known] = {}
        self._dispatched: dict[WorkerRef, int] = {}
        self._unseen: dict[WorkerRef, list[tuple[int, int]]] = {}
        self._decodes: dict[WorkerRef, int] = {}
        self._views: dict[str, WorkerView] = {}  # the last snapshot, never changed
        self._changed: dict[str, None] = {}  # worker ids whose view is made anew
        self._shape = 0

    def report(self, now: int, report: WorkerReport) -> WorkerRef | None:
        """Take a report; returns the earlier process of the same worker id when this one replaces it."""
        source, replaced = report.source, None
        known = self._known.get(source.worker_id)
        if known is None or known.report.source != source:
            if known is not None:
                replaced = known.report.source
                self.lost(replaced)
            self._known[source.worker_id] = _Known(report, now)
            self._shape += 1
        elif report.sequence <= known.report.sequence:
            return None
        else:
            if (known.report.roles, known.report.draining) != (report.roles, report.draining):
                self._shape += 1
            known.report, known.reported_ns = report, now
        self.fleet.report(now, report)
        self._changed[source.worker_id] = None
        unseen = self._unseen.setdefault(source, [])
        if unseen and unseen[0][0] <= report.dispatch_sequence:
            self._unseen[source] = [each for each in unseen if each[0] > report.dispatch_sequence]
            self._count_unseen(source)
        return replaced

    def _count_unseen(self, worker: WorkerRef) -> None:
        self.fleet.expect(worker, sum([tokens for _, tokens in self._unseen[worker]]))

    def lost(self, worker: WorkerRef) -> bool:
        """Forget a process; False when it was not known."""
        self.fleet.lost(worker)
        self._dispatched.pop(worker, None)
        self._unseen.pop(worker, None)
        self._decodes.pop(worker, None)
        self._changed[worker.worker_id] = None
        known = self._known.get(worker.worker_id)
        if known is None or known.report.source != worker:
            return False
        del self._known[worker.worker_id]
        self._shape += 1
        return True

    def dispatched(self, worker: WorkerRef, prompt_tokens: int) -> None:
        """A request was sent to a worker."""
        sequence = self._dispatched[worker] = self._dispatched.get(worker, 0) + 1
        self._unseen.setdefault(worker, []).append((sequence, prompt_tokens))
        self._count_unseen(worker)
        self.take_turn(worker)

    def take_turn(self, worker: WorkerRef) -> None:
        """A worker was chosen."""
        self.fleet.take_turn(worker)
        self._changed[worker.worker_id] = None

    def reserve_decode(self, worker: WorkerRef, change: int, tokens: int = 0) -> None:
        """A request of so many tokens was placed on a worker for decoding (+1), or it decodes or ended (-1)."""
        if worker in self._decodes or change > 0:
            self._decodes[worker] = self._decodes.get(worker, 0) + change
            self.fleet.place(worker, change, change * tokens)
            self._changed[worker.worker_id] = None

    def silent(self, since_ns: int) -> list[WorkerRef]:
        """Workers whose last report came before `since_ns`."""
        if self.fleet.heard(since_ns):  # as nearly always
            return []
        return [row.ref for row in self.fleet.rows.values() if row.reported_ns < since_ns]

    def snapshot(self) -> ClusterView:
        """The current view; only workers of whom something is new are looked at."""
        if self._changed:
            views = {**self._views, **{name: self._view(name) for name in self._changed if name in self._known}}
            if len(views) > len(self._known):
                views = {name: view for name, view in views.items() if name in self._known}
            if len(views) > len(self._views) or self._changed.keys() - self._views.keys():
                views = dict(sorted(views.items()))
            self._views = views
            self._changed.clear()
        return ClusterView(MappingProxyType(self._views), self._shape)

    def _view(self, worker_id: str) -> WorkerView:
        known = self._known[worker_id]
        source = known.report.source
        unseen = self._unseen.get(source, ())
        reserved, turn = sum([tokens for _, tokens in unseen]), self.fleet.rows[worker_id].turn
        return WorkerView(known.report, known.reported_ns, reserved, len(unseen), self._decodes.get(source, 0), turn)

    def state(self) -> object:
        """Everything that decides placement, but the load numbers themselves (they are in the events)."""

        def by_worker(table: dict[WorkerRef, object]) -> list[object]:
            return [[ref.worker_id, ref.incarnation, value] for ref, value in table.items()]

        return {
            "known": [
                [worker_id, known.report.source.incarnation, known.report.sequence, known.reported_ns]
                for worker_id, known in self._known.items()
            ],
            "dispatched": by_worker(dict(self._dispatched)),
            "unseen": by_worker(dict(self._unseen)),
            "decodes": by_worker(dict(self._decodes)),
            "fleet": self.fleet.state(),
        }

    def check(self, waiting: dict[WorkerRef, int]) -> None:
        """Decode reservations equal the given count of requests that wait for their first decoded token."""
        for worker, count in self._decodes.items():
            assert count == waiting.get(worker, 0), f"{worker}: {count} reserved, {waiting.get(worker, 0)} waiting"
        views = self.snapshot().workers
        assert list(views) == sorted(self._known)
        assert all(view == self._view(name) for name, view in views.items())
