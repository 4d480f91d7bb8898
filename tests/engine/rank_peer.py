"""The other ranks of a tensor-parallel runner, in processes of their own, started from a fork server that has torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from services.core.ports import RunnerLost
from services.engine.kv_link import StoreServer
from services.engine.model_runner import ModelRunner
from services.engine.rank_group import RankGroup
from services.engine.tp_runner import TpRunner, follow, load_rank
from tests.engine.link_peer import CONTEXT, HOST

POOL_BYTES = 16 * 2**20
BLOCK_SIZE = 16
JOIN_S = 60.0
names = iter(range(10**6))


def load(
    folder: Path, dtype: str, address: str, name: str, rank: int, ranks: int, timeout_s: float, pool_bytes: int
) -> tuple[ModelRunner, RankGroup]:
    """Join the group, load one shard."""
    group = RankGroup(address, name, rank, ranks, HOST, JOIN_S, timeout_s)
    return load_rank(folder, dtype, pool_bytes, BLOCK_SIZE, 1, group, testing_digests=True), group


def serve(*arguments: object) -> None:
    """Main of the other ranks; status 3 when the runner was lost."""
    runner, group = load(*arguments)  # type: ignore[arg-type]
    try:
        follow(runner, group)
    except RunnerLost as lost:
        print(lost, flush=True)
        os._exit(3)


@contextmanager
def tp_runner(
    folder: Path, ranks: int, dtype: str = "float32", timeout_s: float = 30.0, pool_bytes: int = POOL_BYTES
) -> Iterator[tuple[TpRunner, list[BaseProcess]]]:
    """Rank 0 here, the others each in a process of their own."""
    store = StoreServer(HOST, (0, 0))
    name = f"test-{next(names)}"
    common = (ranks, timeout_s, pool_bytes)
    others = [
        CONTEXT.Process(target=serve, args=(folder, dtype, store.address, name, rank, *common), daemon=True)
        for rank in range(1, ranks)
    ]
    for process in others:
        process.start()
    try:
        runner, _ = load(folder, dtype, store.address, name, 0, *common)
        assert isinstance(runner, TpRunner)
        yield runner, list(others)
        runner.close()
        for process in others:
            process.join(10)
    finally:
        for process in others:
            process.kill()
            process.join(10)
        store.close()
