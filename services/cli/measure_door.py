"""What a running cluster takes beside its engines' steps: its front door, its clients, and what surrounds a step."""

from __future__ import annotations

import re
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loadgen.app import Run, replay
from loadgen.schedule import ScheduledRequest
from loadgen.targets import TargetSpec
from services.core.config import CostConfig
from services.core.cost import decode_step_ms, prefill_ms
from services.core.errors import UnavailableError
from services.core.report import Report
from services.core.slo import Slo

CPU_SECONDS = re.compile(r"^process_cpu_seconds_total\s+(\S+)$", re.MULTILINE)
PROMPT, OUTPUT, AT_ONCE, TURNS = 16, 48, 8, 6
SHORT_TURNS = 24
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Sessions:
    """`count` clients, each of which asks again as soon as it was answered; picklable."""

    count: int
    turns: int
    output_tokens: int

    def __call__(self) -> Iterator[ScheduledRequest]:
        for turn in range(self.turns):
            for session in range(self.count):
                index = turn * self.count + session
                yield ScheduledRequest(
                    index=index,
                    intended_ns=0,
                    input_tokens=PROMPT,
                    output_tokens=self.output_tokens,
                    prompt=partial(_prompt, index),
                    session=f"s{session}",
                    turn=turn,
                    last_turn=turn == self.turns - 1,
                    think_ns=0 if turn else None,
                )


def _prompt(index: int) -> list[int]:
    """Token ids that no other prompt begins with."""
    return [1000 + index, *range(100, 99 + PROMPT)]


@dataclass(frozen=True, slots=True)
class Used:
    """One run: its report, and the CPU seconds of front door and clients in it."""

    report: Report
    cpu_s: float


def around_steps(server: str, cost: CostConfig, lent_speedup: float, told: Callable[[str], None]) -> dict[str, Any]:
    """Keys of `sim.config.HostConfig` and `DelaysConfig` that a running, idle cluster shows.

    Args:
        server: address of its HTTP door.
        cost: of the engine's steps alone; what the cluster takes beyond it surrounds them.
        lent_speedup: of a single decode, whose worker has the cores of those that idle.

    Raises:
        UnavailableError: nobody answers there, or requests fail.
    """
    told("one stream at a time")
    one = _run(server, Sessions(1, TURNS, OUTPUT))
    told(f"{AT_ONCE} streams at once")
    many = _run(server, Sessions(AT_ONCE, TURNS, OUTPUT))
    told("answers of one token")
    short = _run(server, Sessions(1, SHORT_TURNS, 1))
    # CPU of both is linear in requests and tokens: two runs, two unknowns.
    (requests, tokens), short_requests = (AT_ONCE * TURNS, AT_ONCE * TURNS * OUTPUT), SHORT_TURNS
    token_s = (many.cpu_s - short.cpu_s * requests / short_requests) / (tokens - requests)
    token_s = max(token_s, 0.0)
    request_s = max(short.cpu_s / short_requests - token_s, 0.0)
    step = decode_step_ms(cost, 1, PROMPT + OUTPUT // 2) / lent_speedup
    fixed = _median(short.report, "ttft_ms") - prefill_ms(cost, PROMPT)
    return {
        "step_ms": max(_median(one.report, "tpot_ms") - step, 0.0),
        "request_cpu_ms": 1000 * request_s,
        "token_cpu_ms": 1000 * token_s,
        "fixed_ms": max(fixed, 0.0),
    }


def _run(server: str, sessions: Sessions) -> Used:
    with tempfile.TemporaryDirectory() as folder:
        before = _cpu_seconds(server)
        report = replay(Run(sessions, TargetSpec(server), Path(folder), Slo()))
        door_s = _cpu_seconds(server) - before
    if report.succeeded < report.sent:
        raise UnavailableError(f"{report.sent - report.succeeded} of {report.sent} requests to {server} failed")
    return Used(report, door_s + report.generator.cpu_cores * report.duration_s)


def _cpu_seconds(server: str) -> float:
    try:
        with urllib.request.urlopen(server.rstrip("/") + "/metrics", timeout=TIMEOUT_S) as answer:
            found = CPU_SECONDS.search(answer.read().decode())
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"--server {server}: {error}; write the http address that `triptych up` prints"
        ) from None
    if found is None:
        raise UnavailableError(f"--server {server}: its /metrics do not tell its CPU time")
    return float(found[1])


def _median(report: Report, name: str) -> float:
    found = getattr(report.latency, name).sent
    return 0.0 if found is None else float(found.p50.value)
