"""The other end of a link, in a process of its own: commands over a pipe, started from a fork server that has torch."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from typing import Any

import torch

from services.core.actions import LinkRole, OpenLink
from services.core.peer import LinkKey
from services.core.request import WorkerRef
from services.engine import kv_wire
from services.engine.kv_link import GlooLink, StoreServer
from services.engine.kv_pairs import make_link
from services.engine.kv_pool import PagedKvPool
from services.engine.step_progress import StepProgress
from services.worker.faults import Faults

HOST = "127.0.0.1"
RAW_TAG = 1000  # beyond the tags of layer groups
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def key(epoch: int = 1, sender: str = "prefill-0", receiver: str = "decode-0") -> LinkKey:
    """A link between two workers; the incarnations do not matter here."""
    return LinkKey(WorkerRef(sender, 7), WorkerRef(receiver, 9), epoch)


class Side:
    """One worker's transport: a pool of known content, a store, links. The test and the peer have one each.

    Args:
        sizes: of the pool.
        seed: of its content.
    """

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        torch.set_num_threads(1)
        self.pool = PagedKvPool(**sizes, dtype=torch.float32)
        self.pool.data.normal_(generator=torch.Generator().manual_seed(seed))
        self.faults = Faults("side", None, enabled=True)
        self.progress = StepProgress()
        self.store: StoreServer | None = None
        self.links: dict[LinkKey, Any] = {}
        self._raw = torch.empty(0, dtype=torch.uint8)

    def serve(self) -> str:
        """The store's address; it is started on first use."""
        if self.store is None:
            self.store = StoreServer(HOST, (0, 0))
        return self.store.address

    def close_store(self) -> None:
        """End the store."""
        assert self.store is not None
        self.store.close()

    def open(self, link: LinkKey, role: str, address: str, timeout_s: float = 20.0) -> None:
        """Make one end and meet the other."""
        made = GlooLink(link, LinkRole(role), address, self.pool, HOST, self.faults.hit, self.progress)
        self.links[link] = made
        made.open(timeout_s)

    def open_rank(self, link: LinkKey, role: str, address: str, rank: int, ranks: int, peer_ranks: int) -> None:
        """Make one rank's end and meet the others."""
        wanted = OpenLink(link, LinkRole(role), address, peer_ranks)
        self.links[link] = make_link(wanted, self.pool, HOST, self.faults.hit, self.progress, rank, ranks)
        self.links[link].open(20.0)

    def send(self, link: LinkKey, blocks: list[int], part: int = 0, timeout_s: float = 20.0, **names: Any) -> None:
        """Send a part."""
        named = (names.get("transfer", "t"), names.get("attempt", 1), part, blocks, timeout_s, names.get("step_id"))
        self.links[link].send(*named)

    def receive(self, link: LinkKey, blocks: list[int], part: int = 0, timeout_s: float = 20.0, **names: Any) -> int:
        """Receive a part; the monotonic time (ns) at which it was written."""
        self.links[link].receive(names.get("transfer", "t"), names.get("attempt", 1), part, blocks, timeout_s)
        return time.monotonic_ns()

    def drop(self, link: LinkKey) -> None:
        """Break a link and forget it."""
        self.links.pop(link).abort()

    def arm(self, spec: str) -> None:
        """Set the next fault."""
        self.faults.arm(spec)

    def stage(self, num_bytes: int) -> None:
        """Bound a receiver's staging."""
        kv_wire.RANGE_BYTES = num_bytes

    def raw(self, link: LinkKey, num_bytes: int) -> int:
        """One plain send or receive on the link's own group; the monotonic time (ns) at its end."""
        if self._raw.numel() != num_bytes:
            self._raw = torch.ones(num_bytes, dtype=torch.uint8)
        end = self.links[link]
        operation = end._group.send if end._role is LinkRole.SENDER else end._group.recv
        operation([self._raw], end._peer, RAW_TAG).wait()
        return time.monotonic_ns()

    def pages(self, blocks: list[int]) -> Any:
        """[layers, 2, blocks, heads, block_size, head_dim] float32 array: the content of blocks."""
        return self.pool.data[:, :, blocks].numpy().copy()


def serve(pipe: Connection, sizes: dict[str, int], seed: int) -> None:
    """Perform commands (method, arguments, named arguments) until the pipe closes; answer (result, error, message)."""
    side = Side(sizes, seed)
    while True:
        try:
            method, arguments, named = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            answer = (getattr(side, method)(*arguments, **named), "", "")
        except Exception as error:
            answer = (None, type(error).__name__, str(error))
        pipe.send(answer)


class PeerFailed(Exception):
    """The command failed in the other process; the text is the error's type and message."""


class Peer:
    """A `Side` in another process."""

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        self._pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(theirs, sizes, seed), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, method: str, *arguments: Any, **named: Any) -> None:
        """Begin a command."""
        self._pipe.send((method, arguments, named))

    def result(self, timeout_s: float = 30.0) -> Any:
        """Wait for its answer."""
        assert self._pipe.poll(timeout_s), "the peer does not answer"
        value, error, message = self._pipe.recv()
        if error:
            raise PeerFailed(f"{error}: {message}")
        return value

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """A command and its answer."""
        self.start(method, *arguments, **named)
        return self.result()

    def close(self) -> None:
        """Kill the process, stopped or not."""
        self.process.kill()
        self.process.join(10)
        self._pipe.close()
