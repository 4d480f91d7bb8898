"""From the rows of a trace to a schedule: which part of it, how fast, how long each request is, whose client fails.

    rows ─► whole sessions kept, begun ─► dither ─► window ─► speed ─► lengths ─► turns and clients ─► ScheduledRequest

Pure, and the same in every process: whatever is drawn depends on the seed and on a row's place, never on who reads it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from loadgen.arrivals import SEED_RANGE, check_above_zero, cut, dithered, restarted, scaled, thinned
from loadgen.schedule import Prompt, ScheduledRequest
from services.core.clock import NS_PER_S
from services.core.errors import ConfigError
from services.core.seeds import derive_seed
from services.core.workload import WorkloadRow

PromptSource = Callable[[WorkloadRow, str], Prompt]
"""Makes a row's prompt; the text names what is the row's alone, after its shared blocks."""
FAILED_TOKENS = 128
"""Of a prompt or an output whose length the trace does not know because the request failed, before scale and bound."""
COARSE = 0.1
"""A scale that whole tokens a block miss by more than this share is told."""
DISCONNECT, LEAVE_OUT = "disconnect", "leave-out"
CLOSED, OPEN = "closed", "open"


def check_choice(name: str, value: str, *known: str) -> None:
    """Raises ConfigError where a word is not among those known."""
    if value not in known:
        raise ConfigError(name, value, f"use one of {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Lengths:
    """How the trace's lengths are fitted to a model; every change is counted.

    Attributes:
        scale: prompts so many times as long. Of rows with prefix blocks the block is scaled, to whole tokens, so that
            the blocks keep their number and the trace its sharing.
        output_scale: the same of outputs.
        max_input_tokens: longer prompts are cut to their beginning; None is no bound.
        max_output_tokens: longer outputs are cut.

    Raises:
        ConfigError: a number that is not above 0.
    """

    scale: float = 1.0
    output_scale: float = 1.0
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None

    def __post_init__(self) -> None:
        check_above_zero("--length-scale", self.scale, "0.1 makes prompts a tenth as long")
        check_above_zero("--output-scale", self.output_scale, "0.1 makes outputs a tenth as long")
        for name, bound in (
            ("--max-input-tokens", self.max_input_tokens),
            ("--max-output-tokens", self.max_output_tokens),
        ):
            if bound is not None:
                check_above_zero(name, bound, "leave it out for no bound")

    def fit(self, row: WorkloadRow, changes: Counter[str]) -> WorkloadRow:
        """The row as it is sent."""
        block, prefix = row.prefix_block_tokens, row.prefix
        if prefix:
            full, rest = divmod(row.input_tokens, block)
            block = max(1, round(block * self.scale))
            tokens = full * block + -(-rest * block // row.prefix_block_tokens)
            if abs(block / row.prefix_block_tokens - self.scale) > COARSE * self.scale:
                changes[f"prompts {block / row.prefix_block_tokens:.3g} times as long: blocks are whole tokens"] += 1
        else:
            known = row.input_tokens
            if row.failed and not known:
                changes["prompts of failed requests, whose length the trace does not know"] += 1
                known = FAILED_TOKENS
            tokens = max(1, round(known * self.scale))
        if self.max_input_tokens is not None and tokens > self.max_input_tokens:
            changes[f"prompts cut to {self.max_input_tokens} tokens"] += 1
            tokens = self.max_input_tokens
        if prefix:
            prefix = prefix[: -(-tokens // block)]
        wanted = row.output_tokens
        if row.failed and not wanted:
            changes["outputs of failed requests, whose length the trace does not know"] += 1
            wanted = FAILED_TOKENS
        elif not wanted:
            changes["outputs of 0 tokens raised to 1"] += 1
        outputs = max(1, round(wanted * self.output_scale))
        if self.max_output_tokens is not None and outputs > self.max_output_tokens:
            changes[f"outputs cut to {self.max_output_tokens} tokens"] += 1
            outputs = self.max_output_tokens
        return replace(
            row, input_tokens=tokens, output_tokens=outputs, prefix=prefix, prefix_block_tokens=block if prefix else 0
        )


@dataclass(frozen=True, slots=True)
class Clients:
    """What clients do wrong, by plan.

    Attributes:
        failed_rows: what becomes of requests that failed when the trace was recorded: `disconnect` sends them from
            clients that leave at the first token, `leave-out` drops them; both are counted.
        disconnect_share: of all requests, so many are left by their clients at a drawn place of the output.
        slow_reader_share: so many are read slowly.
        read_delay_s: a slow reader waits so long before each read.
        deadline_s: every client gives up so long after the intended send time; None waits.

    Raises:
        ConfigError: a share that is none, a time that is not above 0, or an unknown word.
    """

    failed_rows: str = DISCONNECT
    disconnect_share: float = 0.0
    slow_reader_share: float = 0.0
    read_delay_s: float = 0.5
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        check_choice("--failed-rows", self.failed_rows, DISCONNECT, LEAVE_OUT)
        for name, share in (
            ("--disconnect-share", self.disconnect_share),
            ("--slow-reader-share", self.slow_reader_share),
        ):
            if not 0 <= share <= 1:
                raise ConfigError(name, share, "must be between 0 and 1: the share of requests")
        check_above_zero("--read-delay-s", self.read_delay_s, "how long a slow reader waits before each read")
        if self.deadline_s is not None:
            check_above_zero("--deadline-s", self.deadline_s, "give seconds")

    def of(self, row: WorkloadRow, place: int, seed: int) -> Client:
        """What the client of one row does; each kind of fault is drawn from a stream of its own."""
        leave = None
        if row.failed:
            leave = 1
        elif _drawn(seed, f"loadgen/disconnect/{place}", self.disconnect_share):
            leave = 1 + derive_seed(seed, f"loadgen/disconnect-after/{place}") % max(1, row.output_tokens - 1)
        slow = leave is None and _drawn(seed, f"loadgen/slow-reader/{place}", self.slow_reader_share)
        return Client(
            leave, _ns(self.read_delay_s) if slow else 0, None if self.deadline_s is None else _ns(self.deadline_s)
        )


@dataclass(frozen=True, slots=True)
class Client:
    """What one client does, in the fields of `ScheduledRequest`."""

    leave_after_tokens: int | None = None
    read_delay_ns: int = 0
    deadline_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A row with its place in a schedule.

    Attributes:
        row: as it is sent; `arrival_s` as the trace has it, at the plan's speed.
        place: in the part of the trace that is sent, from 0; what is drawn for the row depends on it.
        at_ns: when to send it, or, of a closed-loop turn, the earliest time at which it can be due.
        session: the chain of turns that it belongs to.
        think_ns: pause after the turn before; None is sent at `at_ns`.
        last_turn: no turn waits for this one.
    """

    row: WorkloadRow
    place: int
    at_ns: int
    session: str
    think_ns: int | None = None
    last_turn: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule made of a trace.

    Attributes:
        rows: in order of arrival; iterated anew by each call.
        prompt: makes prompts.
        seed: of all that is drawn.
        keep_sessions: share of whole sessions to keep.
        session_rate: sessions are begun so many a second, for traces that do not say when; 0 leaves them.
        dither_s: the tick that the trace's times were rounded down to; 0 leaves them.
        start_s, length_s: the window, on the trace's clock.
        speed: arrivals so many times closer; think times stay.
        lengths: how lengths are fitted.
        clients: what clients do wrong.
        closed_loop: turns with a think time wait for the end of the turn before. The part of the trace that is sent
            is held in memory then, because a turn may be due before it is read otherwise.
    """

    rows: Iterable[WorkloadRow]
    prompt: PromptSource
    seed: int = 0
    keep_sessions: float = 1.0
    session_rate: float = 0.0
    dither_s: float = 0.0
    start_s: float = 0.0
    length_s: float = math.inf
    speed: float = 1.0
    lengths: Lengths = field(default_factory=Lengths)
    clients: Clients = field(default_factory=Clients)
    closed_loop: bool = True

    def __call__(self) -> Iterator[ScheduledRequest]:
        """The schedule, in order; prompts are made when they are called for."""
        return (self.request(index, each) for index, each in enumerate(self.planned(Counter())))

    def arrivals(self) -> Iterator[float]:
        """When rows come on the trace's clock, in seconds, before any window is cut: what a window is chosen from."""
        return (row.arrival_s for row in self._whole())

    def _whole(self) -> Iterator[WorkloadRow]:
        rows = iter(self.rows)
        if self.keep_sessions != 1:
            rows = thinned(rows, self.keep_sessions, self.seed)
        if self.session_rate:
            rows = restarted(rows, self.session_rate, self.seed)
        return dithered(rows, self.dither_s, self.seed) if self.dither_s else rows

    def selected(self, changes: Counter[str]) -> Iterator[WorkloadRow]:
        """The rows that are sent, in order of arrival, with the times and lengths that they are sent with."""
        rows = self._whole()
        if self.start_s or self.length_s < math.inf:
            rows = cut(rows, self.start_s, self.length_s)
        for row in scaled(rows, self.speed):
            if row.failed and self.clients.failed_rows == LEAVE_OUT:
                changes["failed requests left out"] += 1
            else:
                yield self.lengths.fit(row, changes)

    def planned(self, changes: Counter[str]) -> Iterator[Planned]:
        """The rows in the schedule's order.

        Args:
            changes: what was done to the trace is counted in here, in words.
        """
        rows = enumerate(self.selected(changes))
        if self.closed_loop:
            return chained(rows)
        return (Planned(row, place, _ns(row.arrival_s), row.session or f"request-{place}") for place, row in rows)

    def request(self, index: int, planned: Planned) -> ScheduledRequest:
        """One request of the schedule."""
        row, client = planned.row, self.clients.of(planned.row, planned.place, self.seed)
        return ScheduledRequest(
            index=index,
            intended_ns=planned.at_ns,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            prompt=partial(self.prompt, row, str(planned.place)),
            session=planned.session,
            turn=row.turn,
            last_turn=planned.last_turn,
            think_ns=planned.think_ns,
            tenant=row.tenant,
            category=row.category,
            deadline_ns=client.deadline_ns,
            leave_after_tokens=client.leave_after_tokens,
            read_delay_ns=client.read_delay_ns,
        )


def chained(rows: Iterable[tuple[int, WorkloadRow]]) -> Iterator[Planned]:
    """Sessions as chains of closed-loop turns, in order of the earliest time at which each can be due.

    A turn without a think time did not wait for the turn before: it begins a chain of its own, at its own time. A turn
    whose predecessors are not among the rows does, too.
    """
    found: list[Planned] = []
    latest: dict[str, Planned] = {}
    branches: Counter[str] = Counter()
    for place, row in rows:
        before = latest.get(row.session) if row.session else None
        if before is None:
            planned = Planned(row, place, _ns(row.arrival_s), row.session or f"request-{place}")
        elif row.think_s is None:
            branches[row.session] += 1
            planned = Planned(row, place, _ns(row.arrival_s), f"{row.session}+{branches[row.session]}")
        else:
            think_ns = _ns(row.think_s)
            planned = Planned(row, place, before.at_ns + think_ns, before.session, think_ns)
        found.append(planned)
        if row.session:
            latest[row.session] = planned
    found.sort(key=lambda each: each.at_ns)
    waiting = Counter(each.session for each in found)
    for each in found:
        waiting[each.session] -= 1
        yield replace(each, last_turn=not waiting[each.session])


def _drawn(seed: int, name: str, share: float) -> bool:
    return share > 0 and derive_seed(seed, name) < share * SEED_RANGE


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
