"""The entries of the cache: found by key or by nearness, kept within quotas, and left with a reason.

A category may fill what others do not use. When room is needed, the category furthest above its quota gives: of a few
entries drawn there the one whose loss costs least, by `saved seconds * (1 + hits) / (bytes * age)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Protocol

from services.core.clock import NS_PER_S
from services.core.seeds import RandomStream
from services.semcache.config import SemcacheConfig
from services.semcache.gate import Answer
from services.semcache.lexical import Features

DRAWN = 8
"""Entries that one is chosen from; as Redis samples for LRU."""
OVERHEAD_BYTES = 1500
"""Keys, features and objects of an entry beside its answer and its vector."""


class Vectors(Protocol):
    """Vectors of one partition (ann.py)."""

    @property
    def dim(self) -> int:
        """Numbers of a vector."""

    def __len__(self) -> int: ...

    def ids(self) -> Sequence[str]:
        """Names of all vectors."""

    def add(self, name: str, vector: Any) -> None:
        """Keep a vector of length 1 under a new name."""

    def remove(self, name: str) -> None:
        """Forget a vector."""

    def nearest(self, vector: Any, count: int) -> list[tuple[float, str]]:
        """(cosine, name), nearest first."""

    def upkeep(self) -> Callable[[], Callable[[], None]] | None:
        """Work for another thread, where there is any; what it returns is called on this one."""

    def check(self) -> None:
        """Assert every invariant."""


@dataclass(slots=True)
class Entry:
    """One answer that is kept.

    Attributes:
        entry_id: names it to operators; at most one entry has an `exact` key.
        exact, partition: of its request (key.py).
        scope: digest of who may have it.
        category: whose quota it takes from.
        min_similarity: at which its question was written, without load; a reader takes the stricter of both.
        adaptive: whether load may lower it, and prolong `ttl_ns`.
        epochs: of its scope and of the whole cache when its request came.
        written_ns, expires_ns: monotonic; hits change neither. At the second one it leaves.
        ttl_ns: for so long it holds without load, which may be until before `expires_ns`.
        features: of its question; None where it is found by its key alone.
        hits: how often it was given.
    """

    entry_id: str
    exact: str
    partition: str
    scope: bytes
    category: str
    answer: Answer
    min_similarity: float
    epochs: tuple[int, int]
    written_ns: int
    expires_ns: int
    features: Features | None = None
    vector_bytes: int = 0
    adaptive: bool = False
    ttl_ns: int = 0
    hits: int = 0

    @property
    def size_bytes(self) -> int:
        """Memory of it, roughly."""
        question = 0 if self.features is None else len(self.features.text)
        return OVERHEAD_BYTES + self.answer.size_bytes + self.vector_bytes + question

    def holds(self, now: int, ttl_ns: int | None = None) -> bool:
        """Whether it is no older than its TTL, or than another one that load makes of it."""
        return now - self.written_ns < (self.ttl_ns if ttl_ns is None else ttl_ns)

    def score(self, now: int) -> float:
        """What it is worth to keep it."""
        age_s = max((now - self.written_ns) / NS_PER_S, 1.0)
        return self.answer.seconds * (1 + self.hits) / (self.size_bytes * age_s)


@dataclass(slots=True)
class _Group:
    """Entries of one category, in an order that one can be drawn from at once."""

    ids: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0

    def add(self, entry: Entry) -> None:
        self.places[entry.entry_id] = len(self.ids)
        self.ids.append(entry.entry_id)
        self.size_bytes += entry.size_bytes

    def remove(self, entry: Entry) -> None:
        place, last = self.places.pop(entry.entry_id), self.ids.pop()
        if last != entry.entry_id:
            self.ids[place] = last
            self.places[last] = place
        self.size_bytes -= entry.size_bytes


class CacheIndex:
    """All entries of one front door.

    Args:
        config: limits and quotas.
        make_vectors: an empty partition.
        draws: chooses among which entries one is evicted.
    """

    def __init__(self, config: SemcacheConfig, make_vectors: Callable[[], Vectors], draws: RandomStream) -> None:
        self._config = config
        self._make_vectors = make_vectors
        self._draws = draws
        self._entries: dict[str, Entry] = {}
        self._by_exact: dict[str, str] = {}
        self._partitions: dict[str, Vectors] = {}
        self._changed: dict[str, None] = {}  # partitions that may be in need of upkeep
        self.dim = make_vectors().dim
        self._groups = {name: _Group() for name in config.categories}
        self._expiries: list[tuple[int, str]] = []  # heap, with some that left before
        self._epoch = 0
        self._scope_epochs: Counter[bytes] = Counter()
        self._category_epochs: Counter[str] = Counter()
        self._tombstones: dict[str, int] = {}  # end by exact key
        self._written = 0
        self._left: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Of all entries."""
        return sum(group.size_bytes for group in self._groups.values())

    @property
    def left(self) -> dict[str, int]:
        """Entries that left, by reason: expired, replaced, epoch, deleted, bad, quota, full."""
        return dict(self._left)

    def knows(self, category: str) -> bool:
        """Whether there is such a category."""
        return category in self._groups

    def entries(self, category: str) -> int:
        """Entries of a category."""
        return len(self._groups[category].ids)

    # --- find -------------------------------------------------------------------------------------------------

    def get(self, now: int, exact: str) -> Entry | None:
        """The entry of an equal request, while it holds."""
        name = self._by_exact.get(exact)
        return self._alive(now, name) if name is not None else None

    def nearest(self, now: int, partition: str, vector: Any, count: int) -> list[tuple[float, Entry]]:
        """(cosine, entry) of the nearest in a partition that still hold, nearest first."""
        vectors = self._partitions.get(partition)
        found = [] if vectors is None else vectors.nearest(vector, count)
        alive = [(cosine, self._alive(now, name)) for cosine, name in found]
        return [(cosine, entry) for cosine, entry in alive if entry is not None]

    def _alive(self, now: int, name: str) -> Entry | None:
        entry = self._entries[name]
        if entry.expires_ns <= now:
            self._remove(entry, "expired")
        elif entry.epochs != self.epochs(entry.scope, entry.category):
            self._remove(entry, "epoch")
        else:
            return entry
        return None

    # --- keep -------------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """A name for the next entry."""
        self._written += 1
        return f"c{self._written}"

    def refusal(self, now: int, entry: Entry) -> str:
        """Why an entry cannot be kept: `epoch` (it was invalidated while it was computed), `bad`, `expired`, `size`."""
        if entry.epochs != self.epochs(entry.scope, entry.category):
            return "epoch"
        if self._tombstones.get(entry.exact, now) > now:
            return "bad"
        if entry.expires_ns <= now:
            return "expired"
        return "size" if entry.size_bytes > self._config.max_bytes else ""

    def put(self, now: int, entry: Entry, vector: Any = None) -> None:
        """Keep an entry that `refusal` does not refuse, in place of one with the same key; others may leave for it."""
        assert not self.refusal(now, entry), "refused entries are not put"
        former = self._by_exact.get(entry.exact)
        if former is not None:
            self._remove(self._entries[former], "replaced")
        self.sweep(now)
        self._make_room(now, entry)
        self._entries[entry.entry_id] = entry
        self._by_exact[entry.exact] = entry.entry_id
        self._groups[entry.category].add(entry)
        heappush(self._expiries, (entry.expires_ns, entry.entry_id))
        if vector is not None:
            if entry.partition not in self._partitions:
                self._partitions[entry.partition] = self._make_vectors()
            self._partitions[entry.partition].add(entry.entry_id, vector)
            self._changed[entry.partition] = None

    def _make_room(self, now: int, entry: Entry) -> None:
        while self._entries and (
            len(self._entries) + 1 > self._config.max_entries
            or self.size_bytes + entry.size_bytes > self._config.max_bytes
        ):
            category = max(self._groups, key=lambda name: self._excess(name, entry))
            group = self._groups[category]
            drawn = [self._draws.choice(group.ids) for _ in range(DRAWN)]
            victim = min((self._entries[name] for name in drawn), key=lambda each: each.score(now))
            self._remove(victim, "quota" if category == entry.category else "full")

    def _excess(self, category: str, entry: Entry) -> float:
        """How far a category is above its quota once `entry` is in, as a share of the cache; -1 if it has nothing."""
        group = self._groups[category]
        if not group.ids:
            return -1.0
        own = category == entry.category
        count = (len(group.ids) + own) / self._config.max_entries
        size = (group.size_bytes + own * entry.size_bytes) / self._config.max_bytes
        return max(count, size) - self._config.categories[category].quota_share

    def upkeep(self) -> Callable[[], Callable[[], None]] | None:
        """Work on a partition for another thread, where there is any; what it returns is called on this one."""
        while self._changed:
            vectors = self._partitions.get(self._changed.popitem()[0])
            if vectors is not None and (work := vectors.upkeep()) is not None:
                return work
        return None

    # --- leave ------------------------------------------------------------------------------------------------

    def sweep(self, now: int) -> int:
        """Remove what has expired; how many that were."""
        count = 0
        while self._expiries and self._expiries[0][0] <= now:
            entry = self._entries.get(heappop(self._expiries)[1])
            if entry is not None:
                self._remove(entry, "expired")
                count += 1
        for exact in [exact for exact, end in self._tombstones.items() if end <= now]:
            del self._tombstones[exact]
        return count

    def delete(self, entry_id: str, reason: str = "deleted") -> bool:
        """Remove one entry; False when it is not there."""
        entry = self._entries.get(entry_id)
        if entry is None:
            return False
        self._remove(entry, reason)
        return True

    def delete_exact(self, exact: str) -> bool:
        """Remove the entry of an equal request; False when there is none."""
        name = self._by_exact.get(exact)
        return name is not None and self.delete(name)

    def mark_bad(self, now: int, entry_id: str) -> bool:
        """Somebody said that an answer is wrong: it leaves, and is not kept anew before it would have expired."""
        entry = self._entries.get(entry_id)
        if entry is None or entry.expires_ns <= now:
            return False
        self._tombstones[entry.exact] = entry.expires_ns
        self._remove(entry, "bad")
        return True

    def epochs(self, scope: bytes, category: str) -> tuple[int, int]:
        """What an entry must have been written under to hold; all only grow, so that a sum tells each of them."""
        return self._scope_epochs.get(scope, 0), self._epoch + self._category_epochs.get(category, 0)

    @property
    def changes(self) -> int:
        """How often anything was invalidated."""
        return self._epoch + self._scope_epochs.total() + self._category_epochs.total()

    def invalidate(self, scope: bytes | None = None, dry_run: bool = False, category: str = "") -> int:
        """Let all entries of a scope or a category, or all there are, hold no more; how many that are."""
        held = [
            each for each in self._entries.values() if scope in (None, each.scope) and category in ("", each.category)
        ]
        if not dry_run:
            if scope is not None:
                self._scope_epochs[scope] += 1
            elif category:
                self._category_epochs[category] += 1
            else:
                self._epoch += 1
            for entry in held:
                self._remove(entry, "epoch")
        return len(held)

    def _remove(self, entry: Entry, reason: str) -> None:
        del self._entries[entry.entry_id], self._by_exact[entry.exact]
        self._groups[entry.category].remove(entry)
        vectors = self._partitions.get(entry.partition)
        if entry.vector_bytes and vectors is not None:
            vectors.remove(entry.entry_id)
            self._changed[entry.partition] = None
            if not len(vectors):
                del self._partitions[entry.partition]
        self._left[reason] += 1
        if len(self._expiries) > 2 * len(self._entries) + 64:
            self._expiries = sorted((each.expires_ns, each.entry_id) for each in self._entries.values())

    def check(self) -> None:
        """Entries, keys, groups, vectors and limits agree."""
        assert self._by_exact == {each.exact: name for name, each in self._entries.items()}
        assert all(name == each.entry_id for name, each in self._entries.items())
        for category, group in self._groups.items():
            held = {name for name, each in self._entries.items() if each.category == category}
            assert held == set(group.ids) and group.places == {name: place for place, name in enumerate(group.ids)}
            assert group.size_bytes == sum(self._entries[name].size_bytes for name in held)
        with_vector = {name: each.partition for name, each in self._entries.items() if each.vector_bytes}
        assert with_vector == {name: key for key, vectors in self._partitions.items() for name in vectors.ids()}
        for vectors in self._partitions.values():
            vectors.check()
            assert len(vectors), "empty partitions are dropped"
        assert len(self._entries) <= self._config.max_entries
        assert self.size_bytes <= self._config.max_bytes
        assert {(each.expires_ns, name) for name, each in self._entries.items()} <= set(self._expiries)
