"""Process groups of `torch.distributed`'s gloo, built directly on a store and never global; their errors as ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed

from services.core.clock import NS_PER_S, WallClock
from services.core.ports import LinkError

_c10d: Any = torch.distributed  # its stubs lack TCPStore, and the options, send and recv of ProcessGroupGloo


class Deadline:
    """A point in time that several waits share."""

    def __init__(self, seconds: float) -> None:
        self._clock = WallClock()
        self._end_ns = self._clock.now_ns() + int(seconds * NS_PER_S)

    def left_s(self) -> float:
        """Seconds to go, never below 1 ms: gloo takes 0 for "no limit"."""
        return max((self._end_ns - self._clock.now_ns()) / NS_PER_S, 0.001)


def open_store(address: str, timeout_s: float) -> Any:
    """A client of the TCPStore at "host:port".

    Raises:
        LinkError: nobody serves there, or it does not answer in time.
    """
    host, _, port = address.rpartition(":")
    deadline = Deadline(timeout_s)
    try:
        # TCPStore retries a refused connection until its limit and beyond; a store that is gone stays gone.
        socket.create_connection((host, int(port)), timeout=deadline.left_s()).close()
    except OSError as error:
        raise LinkError(f"the store {address} is gone ({error})") from error
    timeout = timedelta(seconds=deadline.left_s())
    with gloo_errors():
        return _c10d.TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=timeout)


def make_group(store: Any, name: str, rank: int, size: int, host: str, timeout_s: float) -> Any:
    """A ProcessGroupGloo of its own; returns when all members have come.

    Args:
        name: prefix in the store, never reused.
        host: local address that its sockets are bound to.

    Raises:
        LinkError: a member did not come in time.
    """
    options = _c10d.ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=timeout_s)
    options._threads = 1
    with gloo_errors():
        options._devices = [_c10d.ProcessGroupGloo.create_device(hostname=host)]
        return _c10d.ProcessGroupGloo(_c10d.PrefixStore(name, store), rank, size, options)


def join_group(store_address: str, name: str, rank: int, size: int, host: str, timeout_s: float) -> Any:
    """`make_group` on the store at "host:port".

    Raises:
        LinkError: the store is gone, or a member did not come in time.
    """
    deadline = Deadline(timeout_s)
    store = open_store(store_address, timeout_s)
    return make_group(store, name, rank, size, host, deadline.left_s())


@contextmanager
def gloo_errors() -> Iterator[None]:
    """Turn an error of torch.distributed into LinkError: its first sentence, without the source file."""
    try:
        yield
    except RuntimeError as error:
        raise LinkError(str(error).split("] ", 1)[-1].splitlines()[0].split(". ", 1)[0]) from error
