"""Which worker has which prefix: exact where workers tell of their blocks, guessed from what was sent elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from services.core.block_news import BlockNews
from services.core.clock import NS_PER_S
from services.kvcache.block import HASH_BYTES

GUESS_NS = 60 * NS_PER_S
"""A prompt is believed to be in the prefix cache of a worker that does not tell for this long to twice as long."""
PENDING_NS = 5 * NS_PER_S
"""The same of a worker that does tell: its own word about the blocks comes with the end of prefill."""

Bits = dict[bytes, int]
"""Rows of workers, as bits, by hash."""


class _Guesses:
    """Hashes that probably are on some workers, in two generations: the older one is forgotten as a whole."""

    def __init__(self, lasts_ns: int, most: int) -> None:
        self._lasts_ns, self._most = lasts_ns, most // 2
        self._new: Bits = {}
        self._old: Bits = {}
        self._since_ns = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def add(self, now: int, hashes: Sequence[bytes], bit: int) -> None:
        self._turn(now, len(hashes))
        new = self._new
        for each in hashes:
            new[each] = new.get(each, 0) | bit

    def tables(self, now: int) -> list[Bits]:
        """Those that have something."""
        self._turn(now, 0)
        return [each for each in (self._new, self._old) if each]

    def _turn(self, now: int, more: int) -> None:
        age_ns = now - self._since_ns
        if age_ns >= self._lasts_ns or len(self._new) + more > self._most:
            self._old = self._new if age_ns < 2 * self._lasts_ns else {}
            self._new, self._since_ns = {}, now

    def forget(self, bit: int) -> None:
        for table in (self._new, self._old):
            for each in [each for each, bits in table.items() if bits & bit]:
                table[each] &= ~bit
                if not table[each]:
                    del table[each]


class PrefixIndex:
    """Chained block hashes, each with the set of workers (as bits of their rows) that have it.

    Args:
        most_blocks: hashes that are kept of guesses of each kind, at most.

    Attributes:
        resyncs: snapshots that workers sent after their first.
        gaps: events of workers that were missed; such a worker is guessed at until its next snapshot.
    """

    def __init__(self, most_blocks: int) -> None:
        self._exact: dict[bytes, int] = {}
        self._held: dict[int, dict[bytes, None]] = {}  # what each row told
        self._sequences: dict[int, int] = {}
        self._guessed = _Guesses(GUESS_NS, most_blocks)
        self._pending = _Guesses(PENDING_NS, most_blocks)
        self.resyncs = self.gaps = 0

    def __len__(self) -> int:
        return len(self._exact) + len(self._guessed)

    def aside(self) -> PrefixIndex:
        """The same knowledge, where guesses that grow old as they are looked at do so in a copy."""
        found = copy(self)
        found._guessed, found._pending = copy(self._guessed), copy(self._pending)
        return found

    def match(self, now: int, hashes: Sequence[bytes]) -> list[tuple[int, int]]:
        """(row of a worker, leading blocks that it has), for all that have some: O(blocks)."""
        found: list[tuple[int, int]] = []
        left = -1
        lookups = [each.get for each in (self._exact, *self._guessed.tables(now), *self._pending.tables(now))]
        depth = 0
        for depth, each in enumerate(hashes):
            bits = 0
            for get in lookups:
                bits |= get(each, 0)
            if bits & left != left:
                gone = left & ~bits if left != -1 else 0
                found += [(row, depth) for row in rows_of(gone)]
                left = bits if left == -1 else left & bits
                if not left:
                    return found
        return found + [(row, depth + 1) for row in rows_of(left)] if left != -1 else found

    def sent(self, now: int, hashes: Sequence[bytes], row: int) -> None:
        """A prompt was sent to a worker: it will have these blocks soon."""
        (self._pending if row in self._sequences else self._guessed).add(now, hashes, 1 << row)

    def told(self, row: int, news: BlockNews) -> None:
        """Block events of a worker.

        A gap in the numbers means that something is not known: what the worker told before is forgotten, and it is
        guessed at until its next snapshot comes.
        """
        if news.snapshot:
            self.resyncs += row in self._sequences
            self._clear(row)
        elif self._sequences.get(row) != news.first:
            if row in self._sequences:
                self.gaps += 1
                self._clear(row)
            return
        bit, held = 1 << row, self._held.setdefault(row, {})
        for each in split_hashes(news.removed):
            if each in held:
                del held[each]
                self._drop(each, bit)
        for each in split_hashes(news.added):
            held[each] = None
            self._exact[each] = self._exact.get(each, 0) | bit
        self._sequences[row] = news.end

    def _drop(self, each: bytes, bit: int) -> None:
        bits = self._exact[each] & ~bit
        if bits:
            self._exact[each] = bits
        else:
            del self._exact[each]

    def _clear(self, row: int) -> None:
        for each in self._held.pop(row, ()):
            self._drop(each, 1 << row)
        self._sequences.pop(row, None)

    def lost(self, row: int) -> None:
        """A worker is gone, and its cache with it."""
        self._clear(row)
        for guesses in (self._guessed, self._pending):
            guesses.forget(1 << row)

    def state(self) -> object:
        """Sizes and numbers; the hashes themselves follow from the events."""
        return [len(self._exact), len(self._guessed), len(self._pending), dict(self._sequences), self.gaps]

    def check(self) -> None:
        """What rows told and what is found by hash agree."""
        for row, held in self._held.items():
            assert all(self._exact[each] >> row & 1 for each in held)
        assert sum(map(len, self._held.values())) == sum(bits.bit_count() for bits in self._exact.values())


def split_hashes(joined: bytes) -> list[bytes]:
    """Hashes that were written one after the other."""
    return [joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)]


def rows_of(bits: int) -> list[int]:
    """Numbers of the bits that are set."""
    found = []
    while bits > 0:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found
