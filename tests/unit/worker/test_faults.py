"""Faults: what a spec means, that it fires once, where and in which worker, and what is refused."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from services.core.errors import ConfigError
from services.worker.faults import Fault, Faults, parse_fault


@pytest.mark.parametrize(
    ("spec", "fault", "worker"),
    [
        ("sending=3:kill", Fault("sending", 3, "kill", 0.0), None),
        ("receiving=0:corrupt@decode-0", Fault("receiving", 0, "corrupt", 0.0), "decode-0"),
        ("token=17:stop", Fault("token", 17, "stop", 0.0), None),
        ("step=2:stall=0.25", Fault("step", 2, "stall", 0.25), None),
        ("granted:drop", Fault("granted", None, "drop", 0.0), None),
        ("committed:store-death@decode-1", Fault("committed", None, "store-death", 0.0), "decode-1"),
    ],
)
def test_a_spec_is_understood(spec: str, fault: Fault, worker: str | None) -> None:
    assert parse_fault(spec) == (fault, worker)


@pytest.mark.parametrize(
    ("spec", "fix"),
    [
        ("", "name a point, one of sending, receiving"),
        ("sending=1", "name a point"),
        ("seeding=1:kill", "name a point"),
        ("token=1:murder", "name a fault, one of kill, stop"),
        ("token=one:kill", "is not a number"),
        ("token=1:stall", "write `stall=<seconds>`"),
        ("token=1:stall=soon", "is not a number"),
        ("token=1:kill=9", "no other fault has a number"),
    ],
)
def test_a_wrong_spec_says_what_to_write(spec: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"testing.fault = '{spec}'.*{fix}"):
        Faults("decode-0", spec, enabled=True)


def test_nothing_is_armed_unless_enabled() -> None:
    with pytest.raises(ConfigError, match=r"testing\.enabled"):
        Faults("decode-0", "step=1:drop", enabled=False)
    faults = Faults("decode-0", None, enabled=False)
    with pytest.raises(ConfigError, match=r"testing\.enabled"):
        faults.arm("step=1:drop")
    assert faults.hit("step", 1) is None


def test_a_fault_fires_once_at_its_point() -> None:
    faults = Faults("decode-0", "sending=2:drop", enabled=True)
    assert [faults.hit("sending", group) for group in (0, 1)] == [None, None]
    assert faults.hit("receiving", 2) is None
    assert faults.hit("sending", 2) == "drop"
    assert faults.hit("sending", 2) is None
    faults.arm("granted:corrupt")
    assert [faults.hit("granted", 8), faults.hit("granted")] == ["corrupt", None]


def test_a_fault_of_another_worker_is_not_ours() -> None:
    faults = Faults("decode-0", "step:drop@decode-1", enabled=True)
    assert faults.hit("step", 1) is None
    faults.arm("step:drop@decode-0")
    assert faults.hit("step", 1) == "drop"


@pytest.mark.parametrize(("name", "number"), [("kill", signal.SIGKILL), ("stop", signal.SIGSTOP)])
def test_kill_and_stop_signal_this_process(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, given: sent.append((pid, given)))
    assert Faults("w", f"token=1:{name}", enabled=True).hit("token", 1) is None
    assert sent == [(os.getpid(), number)]


def test_a_stall_holds_the_thread_and_then_goes_on() -> None:
    faults = Faults("w", "step:stall=0.01", enabled=True)
    assert faults.hit("step", 1) is None
    assert faults.hit("step", 2) is None


def test_only_one_of_many_threads_gets_the_fault() -> None:
    faults = Faults("w", "step:drop", enabled=True)
    got: list[str | None] = []
    threads = [threading.Thread(target=lambda: got.append(faults.hit("step", 1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=str) == [None] * 7 + ["drop"]
