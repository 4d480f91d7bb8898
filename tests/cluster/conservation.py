"""One seeded run of the conservation test: a few requests, a few faults, and everything held comes back."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from services.engine.tiny import save_tiny
from services.pb import inference_pb2, inference_pb2_grpc
from tests.cluster.harness import Cluster, wait_for

WORKERS = ("prefill-0", "prefill-1", "decode-0", "decode-1")
COUNTS = ("kv_blocks_used", "leases", "transfers", "tasks", "waiting_offers")
MAX_LINKS = 2  # one to or from each worker of the other role
# A new process has no link yet: two links, store clients and both directions of messages to three peers come later.
MAX_SOCKETS_MORE, MAX_THREADS_MORE = 32, 24
"""What a worker may hold above its first idle look, links included; a leak of each run would pass it soon."""
OUTLIVES_S = 2.0
CLEAN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(frozen=True)
class Ask:
    """One kind of request; its undisturbed output is known."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    ignore_eos: bool


def asks() -> list[Ask]:
    """Short and long prompts, greedy and drawn, that end by length and by stop."""
    chance = random.Random(7)
    found = []
    for number in range(10):
        size = chance.choice([5, 17, 40, 90, 150])
        prompt = tuple(chance.randrange(3, 250) for _ in range(size))
        found.append(Ask(prompt, chance.choice([8, 60, 150, 300]), 0.8 * (number % 2), number % 4 != 3))
    return found


def config(folder: Path) -> dict[str, Any]:
    """Two workers of each role with a tiny model, quick restarts, test hooks on."""
    save_tiny(folder)
    return {
        "model": {"path": str(folder), "name": "tiny", "dtype": "float32"},
        "pools": {"prefill": {"replicas": 2}, "decode": {"replicas": 2}},
        "cache": {"memory_bytes": 8 * 2**20},
        "controller": {
            "ping_every_s": 0.25,
            "ping_timeout_s": 3.0,
            "restart_backoff_s": 0.2,
            "restart_backoff_max_s": 1.0,
        },
        "router": {"early_grant_tokens": 80},
        "testing": {"enabled": True},
    }


@dataclass
class Result:
    """One request of a run.

    Attributes:
        wanted: "whole", "cancelled" or "late": how it was meant to end.
        outcome: "complete", "cancelled", "late", "retryable", or what is wrong.
    """

    wanted: str
    outcome: str = "missing"
    num_tokens: int = 0
    marks: list[str] = field(default_factory=list)


@dataclass
class RunReport:
    """What one seed did."""

    seed: int
    faults: list[str]
    results: list[Result]
    idle_s: float = 0.0
    problems: list[str] = field(default_factory=list)


class Conservation:
    """Runs seeds on one cluster.

    Args:
        cluster: from `config`.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._asks = asks()
        self._first: dict[str, tuple[int, int]] = {}
        self._right = [self._call(f"right-{n}", ask, 120.0).tokens for n, ask in enumerate(self._asks)]

    # --- requests -------------------------------------------------------------------------------------------------

    def _call(self, name: str, ask: Ask, timeout_s: float, cancel_at: float | None = None, how: str = "client") -> _Got:
        """One whole call; the client cancels after `cancel_at` tokens, or seconds where `how` is "time"."""
        request = inference_pb2.GenerateRequest(
            request_id=name,
            prompt_token_ids=ask.prompt,
            sampling=inference_pb2.Sampling(
                max_tokens=ask.max_tokens, temperature=ask.temperature, seed=11, ignore_eos=ask.ignore_eos
            ),
            include_timeline=True,
        )
        stub = inference_pb2_grpc.InferenceServiceStub(self._cluster.channel)
        call = stub.Generate(request, timeout=timeout_s, wait_for_ready=True)
        got = _Got()
        if cancel_at is not None and how == "time":
            threading.Timer(cancel_at, call.cancel).start()
            cancel_at = None
        try:
            for message in call:
                got.take(message)
                if cancel_at is not None and len(got.tokens) >= cancel_at:
                    if how == "id":
                        stub.CancelGeneration(inference_pb2.CancelGenerationRequest(request_id=name), timeout=10)
                        cancel_at = None
                    else:
                        call.cancel()
        except grpc.RpcError as error:
            got.error = error.code()
            # Other codes may be the client's own, beside details of the server's that say something else.
            status = rpc_status.from_call(error) if got.error in CLEAN else None
            got.retryable = status is not None and any(
                detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details
            )
            got.details = error.details() or ""
        return got

    def _one(self, name: str, chance: random.Random) -> tuple[Result, Callable[[], None]]:
        """A request's plan, and the call that carries it out."""
        number = chance.randrange(len(self._asks))
        ask, right = self._asks[number], self._right[number]
        result = Result(chance.choices(["whole", "cancelled", "late"], [6, 2, 1])[0])
        delay = chance.random() * 0.4
        how = chance.choice(["client", "id", "time"])
        cancel_at = chance.uniform(0.0, 0.3) if how == "time" else chance.randrange(0, 40)
        timeout_s = chance.uniform(0.05, 1.5) if result.wanted == "late" else 60.0

        def carry_out() -> None:
            time.sleep(delay)
            got = self._call(name, ask, timeout_s, cancel_at if result.wanted == "cancelled" else None, how)
            result.num_tokens, result.marks = len(got.tokens), got.marks
            result.outcome = got.outcome(right)

        return result, carry_out

    # --- faults ---------------------------------------------------------------------------------------------------

    def _fault(self, chance: random.Random, stopped: dict[int, float]) -> tuple[str, Callable[[], None]]:
        """A random fault and how to do it; stopped processes are noted with the time of their waking."""
        worker_id = chance.choice(WORKERS)
        delay = chance.random() * 0.8
        group = chance.randrange(2)
        side = "sending" if worker_id.startswith("prefill") else "receiving"
        what = chance.choice(["kill", "kill", "stop", "stop", "point", "link", "link", "none"])
        if what == "point":
            spot = chance.choice(["offered", "granted", "committed", "released", f"token={chance.randrange(1, 60)}"])
            fault = f"{spot}:{chance.choice(['kill', 'kill', 'stop', 'drop'])}"
        elif what == "link":
            fault = f"{side}={group}:{chance.choice(['stall=3', 'drop', 'corrupt', 'store-death', 'kill', 'stop'])}"
        else:
            fault = what
        wake_s = chance.choice([1.0, 3.0, 60.0])

        def do() -> None:
            if ":" in fault:
                self._cluster.tell(worker_id, fault)
                return
            time.sleep(delay)
            pid = int(self._cluster.workers().get(worker_id, {}).get("pid", 0))
            if pid and fault in ("kill", "stop"):
                try:
                    os.kill(pid, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
                except ProcessLookupError:
                    return
                if fault == "stop":
                    stopped[pid] = time.monotonic() + wake_s

        return f"{worker_id} {fault}", do

    # --- one run --------------------------------------------------------------------------------------------------

    def run(self, seed: int, everyone: bool = True) -> RunReport:
        """Requests and faults at once; then everything must come back.

        Args:
            everyone: wait for workers that start again; else the next run begins with those that are there.
        """
        chance = random.Random(seed)
        stopped: dict[int, float] = {}
        requests = [self._one(f"run-{seed}-{n}-{os.getpid()}", chance) for n in range(chance.randrange(3, 7))]
        faults = [self._fault(chance, stopped) for _ in range(chance.randrange(1, 3))]
        report = RunReport(seed, [name for name, _ in faults], [result for result, _ in requests])
        armed = [do for name, do in faults if ":" in name]
        for do in armed:
            do()
        timed = [do for name, do in faults if ":" not in name]
        threads = [threading.Thread(target=do) for do in [*timed, *(call for _, call in requests)]]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            wake(stopped, time.monotonic())
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        self._settle(report, stopped, len(WORKERS) if everyone else 0)
        report.problems += [
            f"a {each.wanted} request ended as {each.outcome}" for each in report.results if not acceptable(each)
        ]
        return report

    def _settle(self, report: RunReport, stopped: dict[int, float], at_least: int) -> None:
        """So many workers, and each that is there, report that they hold nothing."""
        wake(stopped, float("inf"))
        begun = time.monotonic()
        try:
            wait_for(lambda: self._idle(at_least), 90.0, "idle workers")
        except AssertionError:
            report.problems.append(f"not idle: {self._cluster.workers()}")
        report.idle_s = round(time.monotonic() - begun, 2)
        for worker_id, row in self._cluster.workers().items():
            held = (int(row["sockets"]), int(row["threads"]))
            first = self._first.setdefault(f"{worker_id}/{row['incarnation']}", held)
            if int(row["links"]) > MAX_LINKS:
                report.problems.append(f"{worker_id} has {row['links']} links")
            if held[0] > first[0] + MAX_SOCKETS_MORE or held[1] > first[1] + MAX_THREADS_MORE:
                report.problems.append(f"{worker_id} has {held} sockets and threads, and had {first}")

    def _idle(self, at_least: int) -> bool:
        rows = self._cluster.workers()
        fresh = all(int(row["report_age_ms"]) < 1500 for row in rows.values())
        return len(rows) >= at_least and fresh and all(int(row[n]) == 0 for row in rows.values() for n in COUNTS)


@dataclass
class _Got:
    """What a client read."""

    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    error: grpc.StatusCode | None = None
    retryable: bool = False
    details: str = ""
    marks: list[str] = field(default_factory=list)

    def take(self, message: Any) -> None:
        """One message; indices have neither gap nor duplicate."""
        kind = message.WhichOneof("event")
        if kind == "delta":
            assert message.delta.token_index == len(self.tokens), "every index once, in order"
            self.tokens += message.delta.token_ids
        elif kind == "finished":
            self.finished = True
            self.marks = [each.name for each in message.finished.timeline]

    def outcome(self, right: list[int]) -> str:
        """How the call ended, in a word."""
        if self.tokens != right[: len(self.tokens)]:
            return "wrong tokens"
        if self.error is None:
            return "complete" if self.finished and self.tokens == right else "incomplete"
        if self.error is grpc.StatusCode.CANCELLED:
            return "cancelled"
        if self.error is grpc.StatusCode.DEADLINE_EXCEEDED:
            return "late"
        return "retryable" if self.error in CLEAN and self.retryable else f"{self.error.name}: {self.details}"


def acceptable(result: Result) -> bool:
    """Complete or cleanly refused, or ended the way it was meant to."""
    return result.outcome in ("complete", "retryable", *(() if result.wanted == "whole" else (result.wanted,)))


def wake(stopped: dict[int, float], now: float) -> None:
    """SIGCONT where it is time; the controller may have killed the process before."""
    for pid in [pid for pid, at in stopped.items() if at <= now]:
        del stopped[pid]
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue


def completion(reports: list[RunReport]) -> tuple[int, int]:
    """Complete requests, and all that were to be: neither cancelled nor past their deadline."""
    whole = [each for report in reports for each in report.results if each.wanted == "whole"]
    return sum(each.outcome == "complete" for each in whole), len(whole)
