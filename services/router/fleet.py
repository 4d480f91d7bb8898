"""The workers as placement counts on them: one row each, changed by reports and by this front door's own promises."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from services.core.actions import WorkerReport
from services.core.request import WorkerRef

NONE: frozenset[int] = frozenset()
KEPT = 0.99
"""Of what is remembered of dispatches when one more is heard of: the last hundred count."""
MOST_DOORS = 8.0
"""A front door that sends next to nothing counts its own requests no more often than this."""


@dataclass(slots=True, eq=False)
class Row:
    """One process.

    Attributes:
        number: of the row, used again after the process is lost.
        pool: the class of workers whose times it shares; `host`: number of its host.
        reported_ns: when its last report came.
        roles: hosted ones; `stages`: also those that it could take over.
        takes: it takes new requests.
        queued: prompt tokens that it reported as not computed; `unseen`: those sent that it has not counted yet.
        owed_tokens, owed_ms: prompts sent by this front door without a first token so far, and their predicted time.
        running, context: decodes and their tokens as reported; `placed`, `placed_tokens`: requests bound there that
            have not decoded.
        used, total: KV blocks.
        turn: number of the placement that chose it last.
        dispatches, others: of this front door and of all others, that it has counted.
        doors: how often a promise of this front door counts, as others that know the same promise the same.
        due: prompt tokens before the next one's; `rows`, `held`: decodes and their tokens with those that are bound
            there; `free`: blocks. Sums of the above, made with every change as they are read for every request.
    """

    number: int
    ref: WorkerRef
    pool: str
    host: int
    turn: float
    reported_ns: int = 0
    roles: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    takes: bool = False
    queued: int = 0
    unseen: int = 0
    owed_tokens: int = 0
    owed_ms: float = 0.0
    running: int = 0
    context: int = 0
    placed: int = 0
    placed_tokens: int = 0
    dispatches: int = 0
    others: int = 0
    doors: float = 1.0
    used: int = 0
    total: int = 0
    due: int = 0
    rows: int = 0
    held: int = 0
    free: int = 0

    def add_up(self) -> None:
        """After a change."""
        if self.doors == 1.0:
            self.due, self.free = self.queued + self.unseen, self.total - self.used
            self.rows, self.held = self.running + self.placed, self.context + self.placed_tokens
            return
        self.due, self.free = self.queued + int(self.doors * self.unseen), self.total - self.used
        self.rows = self.running + round(self.doors * self.placed)
        self.held = self.context + int(self.doors * self.placed_tokens)


class Fleet:
    """All rows, and by what they may do.

    Args:
        front_door: equal workers get their first turns in an order of this front door's own.

    Attributes:
        rows: by worker id.
        computing: rows that take prompts and do not decode; `decoding`: those that decode.
        both: those of both roles; `local`: those that decode and could compute prompts too.
    """

    def __init__(self, front_door: str) -> None:
        self._front_door = front_door
        self.rows: dict[str, Row] = {}
        self.turns = 0
        self._mine = self._theirs = 0.0
        self.computing: list[Row] = []
        self.decoding: list[Row] = []
        self.both: list[Row] = []
        self.local: list[Row] = []
        self._hosts: dict[str, int] = {}
        self._free: list[int] = []
        self._oldest_ns = 0  # no report is older

    def report(self, now: int, report: WorkerReport) -> None:
        """Take over what a worker says; a row begins with its first report."""
        row = self.rows.get(report.source.worker_id)
        if row is None:
            row = self._new_row(report)
        row.reported_ns = now
        self._count_doors(row, report)
        row.queued, row.running = report.queued_prefill_tokens, report.running_decodes
        row.context = report.context_tokens
        row.used, row.total = report.kv_blocks_used, report.kv_blocks_total
        row.add_up()
        if row.takes is report.draining or row.roles != report.roles or row.stages != report.stages:
            row.takes, row.roles, row.stages = not report.draining, report.roles, report.stages
            self._sort_rows()

    def _count_doors(self, row: Row, report: WorkerReport) -> None:
        """How many front doors there are, weighed by what each sends: all that workers have counted by our own.

        Between two reports, doors that know the same think alike: what one promises a worker, the others do, too, as
        often as they have requests. Without that, as many doors fill each gap that they see. With one door nothing is
        counted twice; and neither is anything by a door that sends all there is.
        """
        mine = report.dispatch_sequence - row.dispatches
        theirs = max(report.others_dispatched - row.others, 0)  # one that left takes its count with it
        row.dispatches, row.others = report.dispatch_sequence, report.others_dispatched
        if theirs > 0 or (mine > 0 and self._theirs):
            kept = KEPT ** (mine + theirs)
            self._mine, self._theirs = kept * self._mine + mine, kept * self._theirs + theirs
        if self._theirs:
            row.doors = min(1 + self._theirs / max(self._mine, 1.0), MOST_DOORS)

    def _new_row(self, report: WorkerReport) -> Row:
        worker_id = report.source.worker_id
        number = self._free.pop() if self._free else len(self.rows)
        host = self._hosts.setdefault(report.store_address.rpartition(":")[0], len(self._hosts))
        turn = first_turn(self._front_door, worker_id)
        row = self.rows[worker_id] = Row(number, report.source, report.pool, host, turn)
        row.dispatches, row.others = report.dispatch_sequence, report.others_dispatched
        return row

    def _sort_rows(self) -> None:
        taking = [row for row in self.rows.values() if row.takes]
        self.decoding = [row for row in taking if "decode" in row.roles]
        self.computing = [row for row in taking if "prefill" in row.roles and "decode" not in row.roles]
        self.both = [row for row in self.decoding if "prefill" in row.roles]
        self.local = [row for row in self.decoding if "prefill" not in row.roles and "prefill" in row.stages]

    def lost(self, worker: WorkerRef) -> None:
        """Forget a process."""
        row = self.row(worker)
        if row is not None:
            del self.rows[worker.worker_id]
            self._free.append(row.number)
            self._sort_rows()

    def row(self, worker: WorkerRef) -> Row | None:
        """The row of a process; None when it is not known, or another process has its name."""
        row = self.rows.get(worker.worker_id)
        return row if row is not None and row.ref == worker else None

    def numbers(self, workers: list[WorkerRef]) -> frozenset[int]:
        """Numbers of the rows of those that are known."""
        return (
            frozenset([row.number for worker in workers if (row := self.row(worker)) is not None]) if workers else NONE
        )

    def take_turn(self, worker: WorkerRef) -> None:
        """It was chosen."""
        self.turns += 1
        row = self.row(worker)
        if row is not None:
            row.turn = float(self.turns)

    def expect(self, worker: WorkerRef, tokens: int) -> None:
        """Prompts of so many tokens were sent that it has not counted yet."""
        row = self.row(worker)
        if row is not None:
            row.unseen = tokens
            row.add_up()

    def heard(self, since_ns: int) -> bool:
        """Whether every worker has reported since then."""
        if self._oldest_ns < since_ns:
            self._oldest_ns = min([row.reported_ns for row in self.rows.values()], default=since_ns)
        return self._oldest_ns >= since_ns

    def owe(self, worker: WorkerRef, tokens: int, ms: float) -> None:
        """A prompt of so many tokens, and ms, was sent; or, with negative numbers, its first token came or it ended."""
        row = self.row(worker)
        if row is not None:
            row.owed_tokens += tokens
            row.owed_ms += ms
            if row.owed_tokens <= 0:
                row.owed_tokens, row.owed_ms = 0, 0.0

    def place(self, worker: WorkerRef, requests: int, tokens: int) -> None:
        """Requests were bound there for decoding; or, with negative numbers, they decode or are over."""
        row = self.row(worker)
        if row is not None:
            row.placed += requests
            row.placed_tokens += tokens
            row.add_up()

    def state(self) -> object:
        """What the events since the first do not say by themselves."""
        return [
            [self.turns, self._mine, self._theirs],
            [[row.ref.worker_id, row.turn, row.owed_tokens, row.owed_ms, row.doors] for row in self.rows.values()],
        ]


def first_turn(front_door: str, worker_id: str) -> float:
    """Between -1 and 0: several front doors that know the same begin with different workers."""
    digest = hashlib.blake2b(f"{front_door}/{worker_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32 - 1
