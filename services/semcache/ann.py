"""Nearest vectors of one partition: exact search in numpy, fastest up to about 50,000 vectors of 384 numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""(dim,) float32 of length 1."""

FIRST_ROWS = 4
"""Most partitions hold few vectors."""
UNIT_ERROR = 1e-3


class FlatVectors:
    """Vectors in one array, compared by one product; removing moves the last one into the hole.

    Args:
        dim: numbers of a vector.
    """

    def __init__(self, dim: int) -> None:
        self._rows: NDArray[np.float32] = np.empty((FIRST_ROWS, dim), np.float32)
        self._ids: list[str] = []
        self._places: dict[str, int] = {}

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

    def check(self) -> None:
        """Names and places agree, the array is not larger than it may be."""
        assert self._places == {name: place for place, name in enumerate(self._ids)}
        assert len(self._ids) <= len(self._rows)
        assert len(self._rows) == FIRST_ROWS or 4 * len(self._ids) > len(self._rows)
