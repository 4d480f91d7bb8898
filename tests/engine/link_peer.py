"""The other end of a link, in a process of its own: commands over a pipe, started from a fork server that has torch."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from typing import Any

import torch

from services.core.actions import LinkRole
from services.core.peer import LinkKey
from services.core.request import WorkerRef
from services.engine.kv_link import GlooLink, StoreServer
from services.engine.kv_pool import PagedKvPool
from services.worker.faults import Faults

HOST = "127.0.0.1"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def key(epoch: int = 1, sender: str = "prefill-0", receiver: str = "decode-0") -> LinkKey:
    """A link between two workers; the incarnations do not matter here."""
    return LinkKey(WorkerRef(sender, 7), WorkerRef(receiver, 9), epoch)


class Side:
    """One worker's transport: a pool of known content, a store, links by epoch. Both processes use it."""

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        torch.set_num_threads(1)
        self.pool = PagedKvPool(**sizes, dtype=torch.float32)
        self.pool.data.normal_(generator=torch.Generator().manual_seed(seed))
        self.faults = Faults("peer", None, enabled=True)
        self.store: StoreServer | None = None
        self.links: dict[LinkKey, GlooLink] = {}

    def serve(self) -> str:
        """Start the store."""
        self.store = StoreServer(HOST, (0, 0))
        return self.store.address

    def close_store(self) -> None:
        """End the store."""
        assert self.store is not None
        self.store.close()

    def open(self, link: LinkKey, role: str, address: str, timeout_s: float = 10.0) -> None:
        """Make one end and meet the other."""
        made = GlooLink(link, LinkRole(role), address, self.pool, HOST, self.faults.hit)
        self.links[link] = made
        made.open(timeout_s)

    def send(
        self, link: LinkKey, blocks: list[int], timeout_s: float = 10.0, transfer: str = "t", part: int = 0
    ) -> None:
        """Send a part of attempt 1."""
        self.links[link].send(transfer, 1, part, blocks, timeout_s)

    def receive(
        self, link: LinkKey, blocks: list[int], timeout_s: float = 10.0, transfer: str = "t", part: int = 0
    ) -> int:
        """Receive a part of attempt 1; the monotonic time (ns) at which it was written."""
        self.links[link].receive(transfer, 1, part, blocks, timeout_s)
        return time.monotonic_ns()

    def abort(self, link: LinkKey) -> None:
        """Break a link and forget it."""
        self.links.pop(link).abort()

    def arm(self, spec: str) -> None:
        """Set the next fault."""
        self.faults.arm(spec)

    def raw(self, link: LinkKey, role: str, num_bytes: int) -> int:
        """One plain operation on the link's own group; the monotonic time (ns) at its end."""
        buffer = torch.ones(num_bytes, dtype=torch.uint8) if not hasattr(self, "buffer") else self.buffer
        self.buffer = buffer
        group = self.links[link]._group
        work = group.send([buffer], 1, 77) if role == "sender" else group.recv([buffer], 0, 77)
        work.wait()
        return time.monotonic_ns()

    def pages(self, blocks: list[int]) -> Any:
        """Content of blocks."""
        return self.pool.data[:, :, blocks].numpy().copy()


def serve(pipe: Connection, sizes: dict[str, int], seed: int) -> None:
    """Perform commands (method, arguments) until the pipe closes; answer (result, error type name, message)."""
    side = Side(sizes, seed)
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            answer = (getattr(side, method)(*arguments), "", "")
        except Exception as error:
            answer = (None, type(error).__name__, str(error))
        pipe.send(answer)


class PeerFailed(Exception):
    """The command failed in the other process: (error type name, message)."""


class Peer:
    """A `Side` in another process."""

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        self._pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(theirs, sizes, seed), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, method: str, *arguments: Any) -> None:
        """Begin a command."""
        self._pipe.send((method, arguments))

    def result(self, timeout_s: float = 30.0) -> Any:
        """Wait for its answer."""
        assert self._pipe.poll(timeout_s), "the peer does not answer"
        value, error, message = self._pipe.recv()
        if error:
            raise PeerFailed(error, message)
        return value

    def call(self, method: str, *arguments: Any) -> Any:
        """A command and its answer."""
        self.start(method, *arguments)
        return self.result()

    def close(self) -> None:
        """Kill the process, stopped or not."""
        self.process.kill()
        self.process.join(10)
        self._pipe.close()
