"""Whatever dies, stalls or refuses to start, the wanted workers run again, one process of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.controller.config import ControllerConfig
from services.controller.reconcile import UNKNOWN_INCARNATION, Reconciler, SlotState
from services.core.actions import (
    Action,
    Drain,
    DrainWorker,
    Event,
    Launch,
    ScalePool,
    Stop,
    Tick,
    WorkerLost,
    WorkerReport,
    WorkerStarted,
)
from services.core.clock import NS_PER_S
from services.core.request import WorkerRef

S = NS_PER_S
WANTED = {"prefill": ("prefill-0",), "decode": ("decode-0", "decode-1")}


class Machines:
    """Processes that start, answer and die as told; at most one of a worker id lives."""

    def __init__(self) -> None:
        self.reconciler = Reconciler(WANTED, ControllerConfig())
        self.now = 0
        self.alive: dict[str, WorkerRef] = {}
        self.launching: dict[str, str] = {}
        self.incarnations = 0

    def feed(self, event: Event) -> None:
        actions = self.reconciler.handle(self.now, event)
        self.reconciler.check()
        for action in actions:
            self.perform(action)

    def perform(self, action: Action) -> None:
        if isinstance(action, Launch):
            assert action.worker_id not in self.alive, f"{action.worker_id} runs already"
            self.launching[action.worker_id] = action.pool
        else:
            assert isinstance(action, Stop)
            self.launching.pop(action.worker.worker_id, None)
            self.alive.pop(action.worker.worker_id, None)
            self.feed(WorkerLost("host", action.worker, action.reason))

    def settle_launches(self, fails: bool = False) -> None:
        for worker_id, pool in list(self.launching.items()):
            del self.launching[worker_id]
            if fails:
                self.feed(WorkerLost("host", WorkerRef(worker_id, UNKNOWN_INCARNATION), "no memory"))
            else:
                self.incarnations += 1
                self.alive[worker_id] = WorkerRef(worker_id, self.incarnations)
                self.feed(WorkerStarted("host", self.alive[worker_id], pool))

    def report(self, silent: str | None = None) -> None:
        for worker_id, worker in list(self.alive.items()):
            if worker_id != silent:
                role = worker_id.split("-")[0]
                self.feed(WorkerReport(worker, 1, role, (role,), False, 1, 9, 0, 0, 0, 0, 0, 0, "", 0, 0, 0))

    def pass_time(self, seconds: int, silent: str | None = None, fails: bool = False) -> None:
        for _ in range(seconds):
            self.now += S
            self.settle_launches(fails)
            self.report(silent)
            self.feed(Tick("test"))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["die", "silent", "refuse", "wait", "drain", "replace", "scale"]),
            st.integers(0, 2),
            st.integers(1, 12),
        ),
        max_size=25,
    )
)
def test_the_wanted_workers_come_back(steps: list[tuple[str, int, int]]) -> None:
    machines = Machines()
    machines.feed(Tick("test"))
    wanted = {pool: list(worker_ids) for pool, worker_ids in WANTED.items()}
    for what, pick, seconds in steps:
        victims = list(machines.alive)
        victim = victims[pick % len(victims)] if victims else None
        if what == "die" and victim is not None:
            machines.feed(WorkerLost("host", machines.alive.pop(victim), "killed"))
        if what == "drain" and victim is not None:
            machines.feed(DrainWorker("test", victim))
            pool = victim.split("-")[0]
            wanted[pool] = [worker_id for worker_id in wanted[pool] if worker_id != victim]
        if what == "replace" and victim is not None:
            machines.feed(DrainWorker("test", victim, replace=True))
        if what == "scale":
            wanted["decode"] = [f"decode-{n}" for n in range(pick)]
            machines.feed(ScalePool("test", "decode", tuple(wanted["decode"])))
        machines.pass_time(seconds, silent=victim if what == "silent" else None, fails=what == "refuse")
    machines.pass_time(60)
    assert sorted(machines.alive) == sorted(wanted["decode"] + wanted["prefill"])
    assert {slot.worker_id for slot in machines.reconciler.slots.values()} == set(machines.alive)
    assert all(slot.state is SlotState.LIVE for slot in machines.reconciler.slots.values())


@given(st.integers(0, 20))
def test_after_a_drain_nothing_is_launched(seconds: int) -> None:
    machines = Machines()
    machines.feed(Tick("test"))
    machines.pass_time(seconds)
    machines.feed(Drain("test"))
    machines.pass_time(60)
    assert not machines.alive
    assert not machines.launching


def test_a_restarted_controller_adopts_what_runs() -> None:
    machines = Machines()
    machines.feed(Tick("test"))
    machines.launching.clear()
    for worker_id in ("prefill-0", "decode-0", "decode-1"):
        machines.alive[worker_id] = WorkerRef(worker_id, 77)
        machines.feed(WorkerStarted("host", machines.alive[worker_id], worker_id.split("-")[0]))
    machines.pass_time(10)
    assert [worker.incarnation for worker in machines.alive.values()] == [77, 77, 77]


def test_a_controller_that_slept_takes_nobody_for_silent_and_a_stuck_worker_is_replaced() -> None:
    machines = Machines()
    machines.feed(Tick("test"))
    machines.pass_time(3)
    before = dict(machines.alive)
    machines.now += 30 * S
    machines.feed(Tick("test"))
    machines.pass_time(10)
    assert machines.alive == before
    machines.pass_time(10, silent="decode-0")
    assert machines.alive["decode-0"] != before["decode-0"]
    assert machines.alive["decode-1"] == before["decode-1"]
