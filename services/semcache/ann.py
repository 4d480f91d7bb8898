"""Nearest vectors of one partition: exact search in numpy for few, a graph that finds candidates for many.

Exact search reads every vector, 15 MB of 10,000, and memory gives no more than so many bytes a second. The graph is
usearch's HNSW (Malkov and Yashunin, arXiv 1603.09320) over copies of 8 bits a number, which are compared in two thirds
of the time of half precision; what it finds is ranked exactly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""(dim,) float32 of length 1."""

FIRST_ROWS = 4
"""Most partitions hold few vectors."""
UNIT_ERROR = 1e-3
CROSSOVER = 5000
"""Vectors from which the graph is faster."""
CANDIDATES = 16
"""Least number that the graph is asked for."""
CONNECTIVITY, EXPANSION, SEARCHED = 16, 128, 64
"""Of the graph: links of a vector; vectors looked at while one is added; while one is searched for."""
MANY, SEARCHED_OF_MANY, CANDIDATES_OF_MANY = 50_000, 96, 32
"""Of so many vectors more are looked at and asked for: more of them are as near as 8 bits can tell."""
MAX_REMOVED = 0.3
"""Share of the graph that may be dead before it is made anew; a dead vector costs time and memory."""
COPIED = 256
"""Vectors that are copied at once for a new graph, while the event loop waits."""


class FlatVectors:
    """Vectors in one array, compared by one product; removing moves the last one into the hole.

    Args:
        dim: numbers of a vector.
    """

    def __init__(self, dim: int) -> None:
        self._rows: NDArray[np.float32] = np.empty((FIRST_ROWS, dim), np.float32)
        self._ids: list[str] = []
        self._places: dict[str, int] = {}

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self._rows.shape[1])

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> Sequence[str]:
        """Names of all vectors."""
        return self._ids

    @property
    def size_bytes(self) -> int:
        """Memory of the array."""
        return self._rows.nbytes

    def add(self, name: str, vector: Vector) -> None:
        """Keep a vector under a new name."""
        assert name not in self._places, f"{name} is there already"
        assert abs(float(vector @ vector) - 1) < UNIT_ERROR, "vectors have length 1"
        if len(self._ids) == len(self._rows):
            self._resize(2 * len(self._rows))
        self._places[name] = len(self._ids)
        self._rows[len(self._ids)] = vector
        self._ids.append(name)

    def remove(self, name: str) -> None:
        """Forget a vector; the array shrinks when three quarters of it are empty."""
        place = self._places.pop(name)
        last = self._ids.pop()
        if last != name:
            self._ids[place] = last
            self._places[last] = place
            self._rows[place] = self._rows[len(self._ids)]
        if len(self._rows) > FIRST_ROWS and 4 * len(self._ids) <= len(self._rows):
            self._resize(len(self._rows) // 2)

    def nearest(self, vector: Vector, count: int) -> list[tuple[float, str]]:
        """(cosine, name) of the `count` nearest, nearest first; of equals the one that stands first."""
        used = len(self._ids)
        if not used:
            return []
        cosines = self._rows[:used] @ vector
        chosen = np.arange(used) if used <= count else np.argpartition(-cosines, count - 1)[:count]
        ordered = chosen[np.lexsort((chosen, -cosines[chosen]))]
        return [(float(cosines[place]), self._ids[place]) for place in ordered]

    def _resize(self, rows: int) -> None:
        grown = np.empty((rows, self._rows.shape[1]), np.float32)
        grown[: len(self._ids)] = self._rows[: len(self._ids)]
        self._rows = grown

    def upkeep(self) -> Callable[[], Callable[[], None]] | None:
        """There is nothing to be done beside the loop."""
        return None

    def check(self) -> None:
        """Names and places agree, the array is not larger than it may be."""
        assert self._places == {name: place for place, name in enumerate(self._ids)}
        assert len(self._ids) <= len(self._rows)
        assert len(self._rows) == FIRST_ROWS or 4 * len(self._ids) > len(self._rows)


class _Graph:
    """The graph of some vectors, by serial numbers."""

    def __init__(self, dim: int) -> None:
        from usearch.index import Index

        self.index = Index(
            ndim=dim,
            metric="ip",
            dtype="i8",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION,
            expansion_search=SEARCHED,
        )
        self.names: dict[int, str] = {}
        self.serials: dict[str, int] = {}
        self.removed = 0
        self._added = 0
        self._candidates = CANDIDATES

    def add(self, names: Sequence[str], rows: NDArray[np.float32]) -> None:
        serials = range(self._added, self._added + len(names))
        self.names.update(zip(serials, names, strict=True))
        self.serials.update(zip(names, serials, strict=True))
        self.index.add(np.array(serials, np.uint64), rows, threads=1)
        self._added += len(names)
        if self._added >= MANY:
            self.index.expansion_search = SEARCHED_OF_MANY  # type: ignore[misc]  # its setter stands apart, unseen by mypy
            self._candidates = CANDIDATES_OF_MANY

    def remove(self, name: str) -> None:
        serial = self.serials.pop(name)
        del self.names[serial]
        self.index.remove(serial)
        self.removed += 1

    def search(self, vector: Vector, count: int) -> list[str]:
        found = self.index.search(vector, max(4 * count, self._candidates), threads=1)
        return [self.names[serial] for serial in found.keys.tolist() if serial in self.names]


class IndexedVectors(FlatVectors):
    """Vectors with a graph once there are many; until `upkeep` has made it, and for few, every vector is compared.

    Args:
        dim: numbers of a vector.
        crossover: least number of vectors for a graph.
    """

    def __init__(self, dim: int, crossover: int = CROSSOVER) -> None:
        super().__init__(dim)
        self._crossover = crossover
        self._graph: _Graph | None = None
        self._changed: dict[str, None] | None = None  # names since a new graph was begun; None: none is made
        self._lock = threading.Lock()  # of the rows while they are copied

    @property
    def size_bytes(self) -> int:
        """Memory of the array and the graph."""
        return super().size_bytes + (0 if self._graph is None else int(self._graph.index.memory_usage))

    def add(self, name: str, vector: Vector) -> None:
        """Keep a vector under a new name."""
        with self._lock:
            super().add(name, vector)
        if self._changed is not None:
            self._changed[name] = None
        if self._graph is not None:
            self._graph.add([name], vector[None, :])

    def remove(self, name: str) -> None:
        """Forget a vector."""
        with self._lock:
            super().remove(name)
        if self._changed is not None:
            self._changed[name] = None
        if self._graph is not None:
            self._graph.remove(name)
            if len(self) < self._crossover // 2:
                self._graph = None

    def nearest(self, vector: Vector, count: int) -> list[tuple[float, str]]:
        """(cosine, name) of nearly always the `count` nearest, nearest first; cosines are exact."""
        if self._graph is None:
            return super().nearest(vector, count)
        names = self._graph.search(vector, count)
        cosines = self._rows[[self._places[name] for name in names]] @ vector
        order = np.lexsort((np.arange(len(names)), -cosines))[:count]
        return [(float(cosines[place]), names[place]) for place in order]

    def upkeep(self) -> Callable[[], Callable[[], None]] | None:
        """Work to be done beside the event loop, where there is any; what it returns is called on the loop."""
        graph = self._graph
        dead = 0 if graph is None else graph.removed / (graph.removed + len(self))
        made_already = graph is not None and dead < MAX_REMOVED
        if self._changed is not None or len(self) < self._crossover or made_already:
            return None
        self._changed = {}
        names = list(self._ids)

        def build() -> Callable[[], None]:
            made = _Graph(self.dim)
            made.add(*self._copy(names))
            return lambda: self._adopt(made)

        return build

    def _copy(self, names: Sequence[str]) -> tuple[list[str], NDArray[np.float32]]:
        """Those of the names that are still there, and their rows; the event loop goes on between parts."""
        there: list[str] = []
        rows = np.empty((len(names), self.dim), np.float32)
        for start in range(0, len(names), COPIED):
            with self._lock:
                part = [name for name in names[start : start + COPIED] if name in self._places]
                rows[len(there) : len(there) + len(part)] = self._rows[[self._places[name] for name in part]]
            there += part
        return there, rows[: len(there)]

    def _adopt(self, made: _Graph) -> None:
        """Take a new graph; what changed while it was made is made up for."""
        assert self._changed is not None, "one graph at a time"
        for name in self._changed:
            if name in made.serials:
                made.remove(name)
            if name in self._places:
                made.add([name], self._rows[[self._places[name]]])
        self._changed = None
        self._graph = made if len(self) >= self._crossover // 2 else None

    def check(self) -> None:
        """The graph holds the names that there are."""
        super().check()
        if self._graph is not None:
            assert set(self._graph.serials) == set(self._ids) == set(self._graph.names.values())
            assert len(self._graph.index) == len(self._ids)
