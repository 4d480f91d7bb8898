"""Times of the KV link between two processes of this machine, for the cost models."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch

from services.core.actions import LinkRole
from services.core.clock import NS_PER_MS, Clock
from services.core.peer import LinkKey
from services.core.ports import LinkError
from services.core.request import WorkerRef
from services.engine.kv_link import GlooLink, StoreServer
from services.engine.kv_pool import PagedKvPool
from services.engine.step_progress import StepProgress

HOST = "127.0.0.1"
BLOCKS = (1, 4, 16, 32, 64)
TIMEOUT_S = 60.0
KEY = LinkKey(WorkerRef("profile-sender", 1), WorkerRef("profile-receiver", 1), 1)


def transfer_times(
    sizes: dict[str, Any], repeats: int, clock: Clock, told: Callable[[str], None]
) -> Iterator[tuple[int, float]]:
    """(tokens, median ms) of hand-offs of several lengths, until the receiver has written the last page.

    Args:
        sizes: of the pool at both ends, as `PagedKvPool` takes them; it needs max(BLOCKS) blocks.

    Raises:
        LinkError: the other process could not be reached.
    """
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    receiver = context.Process(target=_receive, args=(theirs, sizes), daemon=True)
    receiver.start()
    theirs.close()
    try:
        link = _link(LinkRole.SENDER, _answer(pipe), PagedKvPool(**sizes))
        link.open(TIMEOUT_S)
        _answer(pipe)
        for count in BLOCKS:
            told(f"hand-off of {count} KV blocks")
            found = []
            for repeat in range(repeats + 1):
                pipe.send((count, repeat))
                begun = clock.now_ns()
                link.send("profile", 1, repeat, list(range(count)), TIMEOUT_S)
                _answer(pipe)
                found.append((clock.now_ns() - begun) / NS_PER_MS)
            yield count * sizes["block_size"], median(found[1:])
        link.abort()
    finally:
        pipe.close()
        receiver.kill()
        receiver.join()


def _answer(pipe: Connection) -> str:
    try:
        if pipe.poll(TIMEOUT_S):
            return str(pipe.recv())
    except EOFError:
        pass
    raise LinkError("the other process of the profile ended or does not answer")


def _link(role: LinkRole, address: str, pool: PagedKvPool) -> GlooLink:
    return GlooLink(KEY, role, address, pool, HOST, lambda _point, _group: None, StepProgress())


def _receive(pipe: Connection, sizes: dict[str, Any]) -> None:
    """The other process: answers when every page of a part is written; ends with its pipe."""
    torch.set_num_threads(1)
    store = StoreServer(HOST, (0, 0))
    pipe.send(store.address)
    link = _link(LinkRole.RECEIVER, store.address, PagedKvPool(**sizes))
    link.open(TIMEOUT_S)
    pipe.send("open")
    while True:
        try:
            count, part = pipe.recv()
        except (EOFError, OSError):
            return
        link.receive("profile", 1, part, list(range(count)), TIMEOUT_S)
        pipe.send("written")
