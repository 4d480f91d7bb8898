"""The KV link over gloo: a 2-rank group on the receiver's own store; pages gathered, checked, sent and scattered."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from services.core.actions import DISCARD, LinkRole
from services.core.clock import NS_PER_S, WallClock
from services.core.errors import ConfigError, PortBusyError
from services.core.peer import LinkKey
from services.core.ports import ChecksumError, LinkError
from services.engine.checksum import checksum
from services.engine.kv_pool import PagedKvPool
from services.engine.kv_wire import WHOLE_PART, KvWire, Message, Part, check_header, digest, empty_header, write_header

_c10d: Any = torch.distributed  # its stubs lack TCPStore, and the options, send and recv of ProcessGroupGloo

RANK = {LinkRole.SENDER: 0, LinkRole.RECEIVER: 1}
CONTROL_TAG = 0  # hello and part headers; layer group g has tag g + 1
ABORT_TAG = 2**31 - 1  # nobody ever sends with it
FaultHook = Callable[[str, int | None], str | None]


class StoreServer:
    """The TCPStore on which this worker's incoming links meet; nothing else depends on it.

    Args:
        host: address to listen on, and no other.
        ports: first and last port that may be used; (0, 0): any free one.

    Attributes:
        address: "host:port" for peers.

    Raises:
        ConfigError: the host is no address of this machine.
        PortBusyError: every port of the range is taken.
    """

    def __init__(self, host: str, ports: tuple[int, int]) -> None:
        listener = _listen(host, ports)
        port = listener.getsockname()[1]
        self.address = f"{host}:{port}"
        self._store: Any = _c10d.TCPStore(
            host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )

    def close(self) -> None:
        """Stop serving; links that are open go on."""
        self._store = None


def _listen(host: str, ports: tuple[int, int]) -> socket.socket:
    """A listening socket on the first free port; made here because TCPStore would listen on every interface."""
    for port in range(ports[0], ports[1] + 1):
        try:
            return socket.create_server((host, port))
        except OSError as error:
            if port == 0 or "assign" in str(error) or isinstance(error, socket.gaierror):
                raise ConfigError("worker.host", host, f"cannot listen here ({error}); use a local address") from error
    raise PortBusyError(f"worker.store_ports = {list(ports)}: every port is taken; give a wider range or [0, 0]")


class Deadline:
    """A point in time that several waits share."""

    def __init__(self, seconds: float) -> None:
        self._clock = WallClock()
        self._end_ns = self._clock.now_ns() + int(seconds * NS_PER_S)

    def left_s(self) -> float:
        """Seconds to go, never below 1 ms: gloo takes 0 for "no limit"."""
        return max((self._end_ns - self._clock.now_ns()) / NS_PER_S, 0.001)


class GlooLink:
    """One end of a link.

    A part is one header of fixed size, then one message for each layer group. The receiver posts its receives when it
    has seen that header, all of them and the first group's last, for two reasons measured on gloo: a message that is
    larger than its receive buffer ends the process, so sizes must be agreed on before; and while bytes flow gloo's
    thread keeps the pair's lock, so posting in between stalls the whole pipeline.

    Args:
        store_address: "host:port" of the receiver's store.
        pool: pages to send or to receive into; both ends have the same geometry.
        host: local address that the group's sockets are bound to.
        hit: passes a fault point (`sending` or `receiving`, layer group) and names the fault to perform here, or None.
    """

    def __init__(
        self, key: LinkKey, role: LinkRole, store_address: str, pool: PagedKvPool, host: str, hit: FaultHook
    ) -> None:
        self._key = key
        self._role = role
        self._peer = 1 - RANK[role]
        self._store_address = store_address
        self._pool = pool
        self._host = host
        self._hit = hit
        self._changed = threading.Condition()
        self._aborted = False
        self._problem: Exception | None = None
        # The group stands before the staging memory, so that a dropped link loses its group first.
        self._group: Any = None
        self._wire = KvWire(pool)

    @property
    def key(self) -> LinkKey:
        return self._key

    # --- opening and breaking ---------------------------------------------------------------------------------

    def open(self, timeout_s: float) -> None:
        """Meet the other end and compare pool geometries.

        A TCPStore client waits without any limit for a store whose process hangs. So a helper thread meets the peer;
        one that hangs is left behind and ends with the peer's process.
        """
        deadline = Deadline(timeout_s)
        helper = threading.Thread(target=self._meet, args=(deadline,), name=f"open {self._key.name}", daemon=True)
        helper.start()
        with self._changed:
            self._changed.wait_for(lambda: self._group or self._problem or self._aborted, deadline.left_s())
            if self._group is None:
                reason = "aborted" if self._aborted else str(self._problem or "the peer did not come in time")
                self._aborted = True
                raise LinkError(f"open: {reason}")
        with self._breaking_on_error():
            self._exchange_hello(deadline)

    def _meet(self, deadline: Deadline) -> None:
        problem: Exception | None = None
        group: Any = None
        try:
            group = self._join(deadline)
        except (OSError, RuntimeError) as error:
            problem = error
        with self._changed:
            self._problem = problem
            if not self._aborted:
                self._group = group
            self._changed.notify_all()

    def _join(self, deadline: Deadline) -> Any:
        """The process group, once both ends are there."""
        host, _, port = self._store_address.rpartition(":")
        try:
            # TCPStore retries a refused connection until its limit and beyond; a store that is gone stays gone.
            socket.create_connection((host, int(port)), timeout=deadline.left_s()).close()
        except OSError as error:
            raise OSError(f"the store {self._store_address} is gone ({error})") from error
        timeout = timedelta(seconds=deadline.left_s())
        store = _c10d.TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=timeout)
        options = _c10d.ProcessGroupGloo._Options()
        options._devices = [_c10d.ProcessGroupGloo.create_device(hostname=self._host)]
        options._timeout = timeout
        options._threads = 1
        return _c10d.ProcessGroupGloo(_c10d.PrefixStore(self._key.name, store), RANK[self._role], 2, options)

    def _exchange_hello(self, deadline: Deadline) -> None:
        mine, theirs = empty_header(), empty_header()
        write_header(mine.numpy(), self._wire.hello())
        works = [self._post("recv", theirs, CONTROL_TAG), self._post("send", mine, CONTROL_TAG)]
        for work in works:
            self._wait(work, deadline)
        self._wire.check_hello(theirs.numpy())

    def abort(self) -> None:
        """Break the group from any thread; a blocked call ends with LinkError within milliseconds. Idempotent.

        `ProcessGroupGloo.abort` unblocks nobody. But an operation that times out closes the pair at both ends, so a
        receive that nothing will ever match, with a limit of 1 ms, does what is wanted.
        """
        with self._changed:
            self._aborted = True
            self._changed.notify_all()
            group = self._group
        if group is not None:
            try:
                group.recv([torch.empty(1, dtype=torch.uint8)], self._peer, ABORT_TAG).wait(timedelta(milliseconds=1))
            except RuntimeError:
                return  # closed, now or before

    @contextmanager
    def _breaking_on_error(self) -> Iterator[None]:
        """After a LinkError the group is unusable: the peer shall learn it at once, not at its deadline."""
        try:
            yield
        except LinkError:
            self.abort()
            raise

    # --- parts ------------------------------------------------------------------------------------------------

    def send(self, transfer_id: str, attempt: int, part: int, blocks: Sequence[int], timeout_s: float) -> None:
        """Send blocks of the pool; while a layer group is on the wire, the next one is gathered.

        Raises:
            LinkError: the group is unusable from here on.
        """
        with self._breaking_on_error():
            index = torch.tensor(blocks, dtype=torch.int64)
            self._send(Part(digest(transfer_id), attempt, part), index, Deadline(timeout_s))

    def receive(self, transfer_id: str, attempt: int, part: int, blocks: Sequence[int], timeout_s: float) -> None:
        """Receive into blocks of the pool; a layer group is written when its header and its checksum agree.

        Raises:
            ChecksumError: bytes are wrong; the part was taken off the link, which still works.
            LinkError: the group is unusable from here on.
        """
        with self._breaking_on_error():
            index = torch.tensor(blocks, dtype=torch.int64)
            intact = self._receive(Part(digest(transfer_id), attempt, part), index, Deadline(timeout_s))
        if not intact:
            raise ChecksumError(f"{transfer_id} attempt {attempt} part {part}: bytes changed on the way")

    def _send(self, part: Part, blocks: Tensor, deadline: Deadline) -> None:
        whole = empty_header()
        write_header(whole.numpy(), self._wire.words(part, WHOLE_PART, 0, len(blocks)))
        announced = self._post("send", whole, CONTROL_TAG)
        for first, count in self._wire.ranges(len(blocks)):
            index = blocks[first : first + count]
            works: list[Any] = [None, None]
            for message in self._wire.messages(count, slots=2):
                fault = self._hit("sending", message.group)
                slot = message.group % 2
                self._wait(works[slot], deadline)
                self._pool.gather(message.group, index, message.staging)
                total = checksum(message.staging, self._pool.first_kv_head)
                write_header(message.header, [*self._wire.words(part, message.group, first, count), total])
                if fault == "corrupt":
                    message.buffer[-1] ^= 1
                works[slot] = None if fault == "drop" else self._post("send", message.buffer, message.group + 1)
            for work in works:
                self._wait(work, deadline)
        self._wait(announced, deadline)

    def _receive(self, part: Part, blocks: Tensor, deadline: Deadline) -> bool:
        """Whether every byte was right."""
        received = empty_header()
        announced = self._post("recv", received, CONTROL_TAG)
        intact = True
        for first, count in self._wire.ranges(len(blocks)):
            messages = list(self._wire.messages(count, slots=self._pool.num_layer_groups))
            if first == 0:
                self._wait(announced, deadline)
                check_header(received.numpy(), self._wire.words(part, WHOLE_PART, 0, len(blocks)))
            works = [self._post("recv", message.buffer, message.group + 1) for message in reversed(messages)]
            for message in messages:
                fault = self._hit("receiving", message.group)
                self._wait(works.pop(), deadline)
                if fault == "corrupt":
                    message.buffer[-1] ^= 1
                total = check_header(message.header, self._wire.words(part, message.group, first, count))
                intact = intact and checksum(message.staging, self._pool.first_kv_head) == total
                if intact:
                    self._write(message, blocks[first : first + count])
        return intact

    def _write(self, message: Message, blocks: Tensor) -> None:
        """Put checked pages where they belong, but for those that nobody wants."""
        wanted = blocks != DISCARD
        if wanted.all():
            self._pool.scatter(message.group, blocks, message.staging)
        elif wanted.any():
            self._pool.scatter(message.group, blocks[wanted], message.staging[:, :, wanted])

    def _post(self, what: str, tensor: Tensor, tag: int) -> Any:
        assert self._group is not None, "the link was not opened"
        try:
            return getattr(self._group, what)([tensor], self._peer, tag)
        except RuntimeError as error:
            raise LinkError(self._reason(error)) from error

    def _wait(self, work: Any, deadline: Deadline) -> None:
        try:
            if work is not None:
                work.wait(timedelta(seconds=deadline.left_s()))
        except RuntimeError as error:
            raise LinkError(self._reason(error)) from error

    def _reason(self, error: RuntimeError) -> str:
        """Gloo's first sentence, without its source file."""
        return "aborted" if self._aborted else str(error).split("] ", 1)[-1].split(". ", 1)[0]
