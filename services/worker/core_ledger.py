"""Which CPU cores of this host the workers of a cluster use now: a worker that idles lends its cores to decode steps.

A small file that every worker of the host maps. Each has a slot: cores it owns, cores it uses in the step that runs,
and since when it idles. All changes are made under the file's lock, which the system opens when its holder dies. At no
time are more cores in use than all slots own together.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from services.core.clock import NS_PER_MS, Clock
from services.worker.config import IDLE_NS

SLOT = struct.Struct("<Qqqqqqq")
MAX_WORKERS = 128
RECALL_NS = 500 * NS_PER_MS
"""An owner waits this long for a borrowed core, several decode steps, then takes it back: the borrower is stopped."""
LOCK_TRIES, POLL_S = 100, 0.0005


@dataclass(frozen=True, slots=True)
class Slot:
    """One worker's line of the ledger.

    Attributes:
        key: of the worker's id; 0: empty.
        pid, created_ms: the process, told from a later one of the same number.
        owned: cores that are its own.
        used: cores that its running step was granted; 0 between steps.
        idle_since_ns: on the host's monotonic clock.
        waiting: it needs its cores and somebody has them.
    """

    key: int = 0
    pid: int = 0
    created_ms: int = 0
    owned: int = 0
    used: int = 0
    idle_since_ns: int = 0
    waiting: int = 0


def is_alive(slot: Slot) -> bool:
    """Whether the slot's process still runs; a zombie does not."""
    with suppress(psutil.Error, OSError):
        process = psutil.Process(slot.pid)
        same = abs(int(process.create_time() * 1000) - slot.created_ms) < 2000
        return same and process.status() != psutil.STATUS_ZOMBIE
    return False


class CoreLedger:
    """One worker's access to the ledger; used by its step thread.

    Args:
        path: the file; made where it is missing.
        owned: cores of this worker.
        alive: whether a slot's process still runs.

    Attributes:
        recalled: how often a stopped borrower's cores were taken back.
    """

    def __init__(
        self, path: Path, worker_id: str, owned: int, clock: Clock, alive: Callable[[Slot], bool] = is_alive
    ) -> None:
        self._clock = clock
        self._alive = alive
        self._key = int.from_bytes(hashlib.blake2b(worker_id.encode(), digest_size=8).digest(), "little") | 1
        self._owned = owned
        self.recalled = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, SLOT.size * MAX_WORKERS)  # zeros where it grows
        self._map = mmap.mmap(self._file, SLOT.size * MAX_WORKERS)
        created_ms = int(psutil.Process().create_time() * 1000)
        with self._locked() as mine:
            if not mine:
                raise TimeoutError(f"{path} stays locked")
            slots = self.slots()
            same = [index for index, slot in enumerate(slots) if slot.key == self._key]
            self._index = same[0] if same else len(slots)
            assert self._index < MAX_WORKERS
            self._write(self._index, Slot(self._key, os.getpid(), created_ms, owned, 0, clock.now_ns(), 0))

    def slots(self) -> list[Slot]:
        """Every worker's slot."""
        found = []
        for index in range(MAX_WORKERS):
            slot = Slot(*SLOT.unpack_from(self._map, index * SLOT.size))
            if not slot.key:
                break
            found.append(slot)
        return found

    def begin(self, may_borrow: bool) -> int:
        """Take cores for a step; waits while others have all of them.

        Args:
            may_borrow: a short step, which may use cores of workers that idle.

        Returns:
            How many threads the step may run, at least 1.
        """
        started = self._clock.now_ns()
        while True:
            with self._locked() as locked:
                if not locked:  # its holder was stopped in the middle of a change
                    return self._owned
                now = self._clock.now_ns()
                granted = self._grant(now, may_borrow, recall=now - started > RECALL_NS)
            if granted:
                return granted
            threading.Event().wait(POLL_S)

    def end(self) -> None:
        """The step is over: nothing is used."""
        with self._locked() as locked:
            if locked:
                mine = self.slots()[self._index]
                self._write(self._index, replace(mine, used=0, waiting=0, idle_since_ns=self._clock.now_ns()))

    def _grant(self, now: int, may_borrow: bool, recall: bool) -> int:
        slots = self.slots()
        mine = slots.pop(self._index)
        total = self._owned + sum(slot.owned for slot in slots)
        idle = sum(
            slot.owned for slot in slots if not slot.used and not slot.waiting and now - slot.idle_since_ns >= IDLE_NS
        )
        wanted = self._owned + (idle if may_borrow else 0)
        if total - sum(slot.used for slot in slots) < self._owned:
            slots = [self._reclaimed(slot, recall) for slot in slots]
        granted = max(0, min(wanted, total - sum(slot.used for slot in slots)))
        self._write(self._index, replace(mine, used=granted, waiting=int(not granted)))
        return granted

    def _reclaimed(self, slot: Slot, recall: bool) -> Slot:
        """The slot without cores that its process cannot be using: it is dead, or stopped with borrowed ones."""
        if slot.used and not self._alive(slot):
            kept = 0
        elif recall and slot.used > slot.owned:
            kept = slot.owned
            self.recalled += 1
        else:
            return slot
        changed = replace(slot, used=kept)
        index = next(index for index, each in enumerate(self.slots()) if each.key == slot.key)
        self._write(index, changed)
        return changed

    def check(self) -> None:
        """Assert that no more cores are in use than there are."""
        slots = self.slots()
        assert all(slot.used >= 0 for slot in slots), slots
        assert sum(slot.used for slot in slots) <= sum(slot.owned for slot in slots), slots

    def _write(self, index: int, slot: Slot) -> None:
        fields = (slot.key, slot.pid, slot.created_ms, slot.owned, slot.used, slot.idle_since_ns, slot.waiting)
        SLOT.pack_into(self._map, index * SLOT.size, *fields)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """The file's lock; False when it could not be had in 50 ms."""
        locked = False
        for _ in range(LOCK_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
                break
            threading.Event().wait(POLL_S)
        try:
            yield locked
        finally:
            if locked:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file; the slot stays and its cores may be used by others."""
        self._map.close()
        os.close(self._file)
