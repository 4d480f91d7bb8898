"""What a running cluster takes beside its engines' steps: its front door, its clients, and what surrounds a step."""

from __future__ import annotations

import re
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from threading import Event

from loadgen.app import Run, replay
from loadgen.schedule import ScheduledRequest
from loadgen.targets import TargetSpec
from services.cli.calibrate import Lived, Seen
from services.core.clock import NS_PER_MS, WallClock
from services.core.config import CostConfig
from services.core.cost import prefill_ms
from services.core.errors import UnavailableError
from services.core.report import Distribution, Report
from services.core.seeds import numpy_stream
from services.core.slo import Slo

CPU_SECONDS = re.compile(r"^process_cpu_seconds_total\s+(\S+)$", re.MULTILINE)
PROMPT, OUTPUT, AT_ONCE, TURNS = 16, 48, 8, 6
SHORT_TURNS = 24
USUAL_PROMPT, USUAL_TURNS, PAUSE_MS = 128, 8, 700
"""A request of a cluster at ease, and what lies between two of them."""
MIXED, MIXED_LOAD, MIXED_PROMPT, MIXED_OUTPUT, MIXED_SPREAD = 60, 0.35, 112, 40, 0.7
"""Requests with prompts and answers of all lengths, so that all kinds of work go on beside each other; how much of the
time prompts alone would take."""
IDLE_S = 3.0
GOLDEN = 0.618034
"""Multiples of it, without their whole part, fill the range from 0 to 1 evenly (Weyl 1916)."""
TIMEOUT_S = 10.0
SALTS = 810_000


@dataclass(frozen=True)
class Sessions:
    """`count` clients, each of which asks again as soon as it was answered; picklable.

    Attributes:
        name: of their category.
        turns: that each of them asks.
        pause_ms: after an answer, before the next turn.
    """

    name: str
    count: int
    turns: int
    output_tokens: int
    prompt_tokens: int = PROMPT
    pause_ms: int = 0

    def requests(self, first: int, salt: int) -> Iterator[ScheduledRequest]:
        """Theirs, numbered from `first`."""
        for turn in range(self.turns):
            for session in range(self.count):
                index = first + turn * self.count + session
                yield ScheduledRequest(
                    index=index,
                    intended_ns=0,
                    input_tokens=self.prompt_tokens,
                    output_tokens=self.output_tokens,
                    prompt=partial(_prompt, salt, index, self.prompt_tokens),
                    session=f"{self.name}-{session}",
                    turn=turn,
                    last_turn=turn == self.turns - 1,
                    think_ns=self.pause_ms * NS_PER_MS if turn else None,
                    category=self.name,
                )


@dataclass(frozen=True)
class Arrivals:
    """`count` clients that come one by one whatever the cluster does, a Poisson process, as a trace is replayed.

    Attributes:
        every_ms: between two of them in the mean.
        spread: share by which lengths differ at most from the ones that are given.
    """

    count: int
    every_ms: float
    output_tokens: int
    prompt_tokens: int
    spread: float
    turns: int = 1

    def requests(self, first: int, salt: int) -> Iterator[ScheduledRequest]:
        """Theirs, numbered from `first`."""
        gaps = numpy_stream(1, "profile/arrivals").exponential(self.every_ms * NS_PER_MS, self.count)
        for place, at_ns in enumerate(accumulate(gaps)):
            prompt_tokens = self._length(self.prompt_tokens, place)
            yield ScheduledRequest(
                index=first + place,
                intended_ns=round(at_ns),
                input_tokens=prompt_tokens,
                output_tokens=self._length(self.output_tokens, 2 * place + 1),
                prompt=partial(_prompt, salt, first + place, prompt_tokens),
                session=f"arrival-{first + place}",
            )

    def _length(self, tokens: int, place: int) -> int:
        return round(tokens * (1 + self.spread * (2 * (place * GOLDEN % 1) - 1)))


@dataclass(frozen=True)
class Clients:
    """All sessions of a run; picklable.

    Attributes:
        salt: no run of another salt has a prompt that begins alike, for the prefix cache would know it.
    """

    sessions: tuple[Sessions | Arrivals, ...]
    salt: int

    def __call__(self) -> Iterator[ScheduledRequest]:
        first = 0
        for each in self.sessions:
            yield from each.requests(first, self.salt)
            first += each.count * each.turns


def _prompt(salt: int, index: int, tokens: int) -> list[int]:
    """Token ids that no other prompt begins with."""
    return [1000 + index, 100 + salt % 900, 100 + salt // 900, *range(100, 97 + tokens)]


@dataclass(frozen=True, slots=True)
class Used:
    """One run: its clients, its report, and the CPU seconds of front door and clients in it."""

    clients: Clients
    report: Report
    cpu_s: float

    def median(self, name: str) -> float:
        """Of all times of that name."""
        return self._times(name).p50.value

    def seen(self) -> Seen:
        """Their means."""
        return Seen(self.clients, self._times("ttft_ms").mean, self._times("tpot_ms").mean)

    def _times(self, name: str) -> Distribution:
        times: Distribution | None = getattr(self.report.latency, name).sent
        if times is None:
            raise UnavailableError(f"none of the profile's requests told a {name}")
        return times


@dataclass(frozen=True, slots=True)
class Around:
    """What surrounds steps.

    Attributes:
        host: keys of `sim.config.HostConfig`.
        fixed_ms: of an answer of one token, what is not its step.
        lived: what clients saw, for `fit_host`.
    """

    host: dict[str, float]
    fixed_ms: float
    lived: Lived


def around_steps(server: str, cost: CostConfig, told: Callable[[str], None]) -> Around:
    """What a running, idle cluster takes beyond its engine's steps.

    Args:
        server: address of its HTTP door.
        cost: of the engine's steps alone; what the cluster takes beyond it surrounds them.

    Raises:
        UnavailableError: nobody answers there, or requests fail.
    """
    idle_cores = _idle_cores(server)
    told("one stream at a time")
    one = _run(server, idle_cores, Sessions("streams", 1, TURNS, OUTPUT))
    told(f"{AT_ONCE} streams at once")
    many = _run(server, idle_cores, Sessions("streams", AT_ONCE, TURNS, OUTPUT))
    told("answers of one token")
    short = _run(server, idle_cores, Sessions("prompts", 1, SHORT_TURNS, 1))
    told("prompts, one right after the other")
    awake = _run(server, idle_cores, Sessions("prompts", 1, USUAL_TURNS, 1, USUAL_PROMPT))
    told("prompts after pauses")
    paused = _run(server, idle_cores, Sessions("prompts", 1, USUAL_TURNS, 1, USUAL_PROMPT, PAUSE_MS))
    told(f"{MIXED} requests of all lengths")
    every_ms = prefill_ms(cost, MIXED_PROMPT) / MIXED_LOAD
    mixed = _run(server, idle_cores, Arrivals(MIXED, every_ms, MIXED_OUTPUT, MIXED_PROMPT, MIXED_SPREAD))
    # CPU of both is linear in requests, in steps that bring something, and in tokens: three runs, three unknowns.
    first_s, alone_s, beside_s = (used.cpu_s / used.report.sent for used in (short, one, many))
    item_s = max((alone_s - beside_s) / (OUTPUT - OUTPUT / AT_ONCE), 0.0)
    token_s = max((alone_s - first_s) / (OUTPUT - 1) - item_s, 0.0)
    request_s = max(first_s - item_s - token_s, 0.0)
    fixed_ms = max(short.median("ttft_ms") - prefill_ms(cost, PROMPT), 0.0)
    awake_ms, paused_ms = (max(each.median("ttft_ms") - fixed_ms, 1.0) for each in (awake, paused))
    host = {
        "wake_slowdown": max(1.0, paused_ms / awake_ms),
        "wake_ms": awake_ms,
        "request_cpu_ms": 1000 * request_s,
        "item_cpu_ms": 1000 * item_s,
        "token_cpu_ms": 1000 * token_s,
    }
    return Around(host, fixed_ms, Lived(one.seen(), many.seen(), mixed.seen()))


def _idle_cores(server: str) -> float:
    """What the front door takes while nobody asks anything."""
    before = _cpu_seconds(server)
    Event().wait(IDLE_S)
    return (_cpu_seconds(server) - before) / IDLE_S


def _run(server: str, idle_cores: float, *sessions: Sessions | Arrivals) -> Used:
    """Let clients ask; CPU that an idle front door takes as well is not theirs."""
    with tempfile.TemporaryDirectory() as folder:
        before = _cpu_seconds(server)
        clients = Clients(sessions, WallClock().unix_ms() % SALTS)
        report = replay(Run(clients, TargetSpec(server), Path(folder), Slo()))
        door_s = _cpu_seconds(server) - before
    if report.succeeded < report.sent:
        raise UnavailableError(f"{report.sent - report.succeeded} of {report.sent} requests to {server} failed")
    door_s -= idle_cores * report.duration_s
    return Used(clients, report, max(0.0, door_s) + report.generator.cpu_cores * report.duration_s)


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
