"""The core ledger: who gets how many cores, and that never more are in use than there are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from services.core.batch import Row, ScheduledBatch, StepOutput
from services.core.clock import VirtualClock
from services.worker import core_ledger
from services.worker.config import IDLE_NS
from services.worker.core_ledger import RECALL_NS, CoreLedger, Slot
from services.worker.lent_cores import LentCores


class Host:
    """Workers on one host whose processes live in this one; `dead` and the clock are the test's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = VirtualClock()
        self.dead: set[int] = set()

    def worker(self, name: str, owned: int = 1) -> CoreLedger:
        ledger = CoreLedger(self.path, name, owned, self.clock, lambda slot: slot.key not in self.dead)
        self.dead.discard(ledger._key)
        return ledger

    def kill(self, ledger: CoreLedger) -> None:
        self.dead.add(ledger._key)

    def wait(self, ns: int) -> None:
        self.clock.advance_to(self.clock.now_ns() + ns)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "cores")


def test_an_idle_workers_core_is_lent_for_a_short_step_only(host: Host) -> None:
    prefill, decode = host.worker("prefill-0"), host.worker("decode-0")
    assert decode.begin(may_borrow=True) == 1  # the other has not idled long enough
    decode.end()
    host.wait(IDLE_NS)
    assert decode.begin(may_borrow=False) == 1
    decode.end()
    assert decode.begin(may_borrow=True) == 2
    decode.end()
    assert prefill.begin(may_borrow=False) == 1
    host.wait(IDLE_NS)
    assert decode.begin(may_borrow=True) == 1


def test_an_owner_gets_its_core_at_the_borrowers_step_boundary(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill, decode = host.worker("prefill-0"), host.worker("decode-0")
    host.wait(IDLE_NS)
    assert decode.begin(may_borrow=True) == 2
    waits: list[list[Slot]] = []

    class Boundary:
        def wait(self, _seconds: float) -> None:
            waits.append(prefill.slots())
            decode.end()
            assert decode.begin(may_borrow=True) == 1  # the owner waits: nothing is lent

    monkeypatch.setattr(core_ledger.threading, "Event", Boundary)
    assert prefill.begin(may_borrow=False) == 1
    assert len(waits) == 1 and waits[0][0].waiting
    prefill.check()


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_borrower_that_never_ends_its_step_loses_the_core(
    host: Host, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    prefill, decode = host.worker("prefill-0"), host.worker("decode-0")
    host.wait(IDLE_NS)
    assert decode.begin(may_borrow=True) == 2
    if end == "killed":
        host.kill(decode)

    class Later:
        def wait(self, _seconds: float) -> None:
            host.wait(RECALL_NS // 4)

    monkeypatch.setattr(core_ledger.threading, "Event", Later)
    assert prefill.begin(may_borrow=False) == 1
    assert prefill.recalled == (0 if end == "killed" else 1)
    assert [slot.used for slot in prefill.slots()] == [1, 0 if end == "killed" else 1]
    prefill.check()


def test_a_lender_that_dies_and_comes_back_owns_its_core_once(host: Host) -> None:
    prefill, decode = host.worker("prefill-0"), host.worker("decode-0")
    host.wait(IDLE_NS)
    host.kill(prefill)
    assert decode.begin(may_borrow=True) == 2
    again = host.worker("prefill-0")
    again.check()
    assert [slot.owned for slot in again.slots()] == [1, 1]
    decode.end()
    assert again.begin(may_borrow=False) == 1


def test_random_steps_deaths_and_restarts_never_use_more_cores_than_there_are(host: Host) -> None:
    rng = random.Random(7)
    names = {"prefill-0": 2, "prefill-1": 1, "decode-0": 1, "decode-1": 1}
    workers = {name: host.worker(name, owned) for name, owned in names.items()}
    stepping: set[str] = set()
    lent = 0
    for _ in range(3000):
        name = rng.choice(list(names))
        host.wait(rng.choice((0, IDLE_NS // 3, IDLE_NS)))
        if rng.random() < 0.05:
            host.kill(workers[name])
            stepping.discard(name)
            workers[name] = host.worker(name, names[name])
        elif name in stepping:
            workers[name].end()
            stepping.discard(name)
        else:
            granted = workers[name]._grant(host.clock.now_ns(), name.startswith("decode"), recall=False)
            lent += granted > names[name]
            if granted:
                stepping.add(name)
        workers[name].check()
    assert lent > 100


def test_a_runner_asks_before_every_step_and_gives_back_after_an_error(host: Host) -> None:
    host.worker("prefill-0")
    ledger = host.worker("decode-0")
    host.wait(IDLE_NS)
    threads: list[int] = []

    class Failing:
        def execute(self, batch: ScheduledBatch) -> StepOutput:
            raise RuntimeError("lost")

    runner = LentCores(Failing(), ledger, 1, threads.append)
    for ids in ((5,), (5, 6)):
        with pytest.raises(RuntimeError):
            runner.execute(ScheduledBatch(1, (Row("r", ids, 0, (0,), None),)))
    assert threads == [2, 1]
    assert all(slot.used == 0 for slot in ledger.slots())
