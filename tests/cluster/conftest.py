"""One float32 SmolLM2 cluster for a whole test run; tests that break it wait until it serves again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from tests.cluster.harness import Cluster, running

CACHE = Path(__file__).parents[2] / ".cache" / "models"


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The default model, converted once into the repository's cache."""
    return prepare_model(DEFAULT_MODEL, CACHE)


def cluster_config(model_folder: Path, folder: Path) -> dict[str, Any]:
    """float32, 64 MB pools, test hooks on, decisions recorded."""
    return {
        "model": {"path": str(model_folder), "name": DEFAULT_MODEL, "dtype": "float32"},
        "cache": {"memory_bytes": 96 * 2**20},
        "record": {"folder": str(folder / "decisions")},
        "testing": {"enabled": True},
    }


@pytest.fixture(scope="session")
def cluster(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster."""
    folder = tmp_path_factory.mktemp("cluster")
    with running(folder, cluster_config(model_folder, folder)) as started:
        yield started
