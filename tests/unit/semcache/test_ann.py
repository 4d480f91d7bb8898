"""Vectors with a graph: nearly the same answers as comparing all, also while it is made, and after many left."""

from __future__ import annotations

import numpy as np
import pytest

from services.core.seeds import numpy_stream
from services.semcache.ann import FlatVectors, IndexedVectors, Vector

DIM = 32


def some(count: int, seed: int) -> list[Vector]:
    """Unit vectors in clusters, as questions are."""
    draws = numpy_stream(seed, "tests/ann")
    centres = draws.standard_normal((count // 8 + 1, DIM)).astype(np.float32)
    rows = np.repeat(centres, 8, axis=0)[:count] + 0.5 * draws.standard_normal((count, DIM)).astype(np.float32)
    return list(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def recall(graph: IndexedVectors, flat: FlatVectors, questions: list[Vector]) -> float:
    found = [
        len({name for _, name in graph.nearest(each, 4)} & {name for _, name in flat.nearest(each, 4)})
        for each in questions
    ]
    return sum(found) / (4 * len(questions))


def test_the_graph_finds_what_comparing_all_finds() -> None:
    graph, flat = IndexedVectors(DIM, crossover=200), FlatVectors(DIM)
    vectors = some(700, 1)
    for place, vector in enumerate(vectors[:400]):
        graph.add(f"n{place}", vector)
        flat.add(f"n{place}", vector)
    work = graph.upkeep()
    assert work is not None and graph.upkeep() is None, "one at a time"
    adopt = work()
    for place, vector in enumerate(vectors[400:500], start=400):  # meanwhile some come and some go
        graph.add(f"n{place}", vector)
        flat.add(f"n{place}", vector)
        graph.remove(f"n{place - 350}")
        flat.remove(f"n{place - 350}")
    adopt()
    graph.check()
    assert graph.upkeep() is None
    assert recall(graph, flat, vectors[500:]) >= 0.98
    assert graph.nearest(vectors[450], 1)[0] == (pytest.approx(1), "n450")


def test_a_graph_with_many_dead_vectors_is_made_anew_and_a_small_one_is_given_up() -> None:
    graph = IndexedVectors(DIM, crossover=100)
    vectors = some(400, 2)
    for place, vector in enumerate(vectors):
        graph.add(f"n{place}", vector)
    work = graph.upkeep()
    assert work is not None
    work()()
    for place in range(150):
        graph.remove(f"n{place}")
    work = graph.upkeep()
    assert work is not None, "more than 30 % are dead"
    work()()
    assert graph.upkeep() is None
    graph.check()
    for place in range(150, 360):
        graph.remove(f"n{place}")
        assert all(name != f"n{place}" for _, name in graph.nearest(vectors[place], 4))
    graph.check()
    assert graph.size_bytes < 40 * 1000
