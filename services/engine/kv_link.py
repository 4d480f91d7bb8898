"""The KV link over gloo: a 2-rank group on the receiver's own store; pages gathered, checked, sent and scattered."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from services.core.actions import DISCARD, LinkRole
from services.core.errors import ConfigError, PortBusyError
from services.core.peer import LinkKey
from services.core.ports import ChecksumError, LinkError
from services.engine.checksum import checksum
from services.engine.gloo import Deadline, gloo_errors, join_group
from services.engine.kv_pool import PagedKvPool
from services.engine.kv_wire import WHOLE_RANGE, KvWire, Message, Part, check_header, digest, empty_header, write_header
from services.engine.step_progress import StepProgress

_c10d: Any = torch.distributed  # its stubs lack TCPStore, and the options, send and recv of ProcessGroupGloo

RANK = {LinkRole.SENDER: 0, LinkRole.RECEIVER: 1}
CONTROL_TAG = 0  # hello and part headers; layer group g has tag g + 1
SENTINEL_TAG, ABORT_TAG = 2**31 - 2, 2**31 - 1  # nobody ever sends with these
GRACE_S = 0.5
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


class GlooLink:
    """One end of a link.

    The receiver of a block range posts all its receives, then asks for the range with a header of fixed size; the
    sender compares it with what it was told to send, and sends one message for each layer group. The order is what
    gloo asks for, as measured: a message larger than its receive buffer ends the process, so sizes are agreed on
    first; and gloo's thread spins on the lock of a pair that another thread holds, so a receiver posts nothing while
    bytes flow.

    Args:
        store_address: "host:port" of the receiver's store.
        pool: pages to send or to receive into; both ends have the same geometry.
        host: local address that the group's sockets are bound to.
        progress: of the steps that compute what is sent.
        pair: name of the two ranks that meet, where the workers have several.
        hit: passes a fault point (`sending` or `receiving`, layer group) and names the fault to perform here, or None.
    """

    def __init__(
        self,
        key: LinkKey,
        role: LinkRole,
        store_address: str,
        pool: PagedKvPool,
        host: str,
        hit: FaultHook,
        progress: StepProgress,
        pair: str = "0-0",
    ) -> None:
        self._key = key
        self._name = f"{key.name}/{pair}"
        self._role = role
        self._peer = 1 - RANK[role]
        self._store_address = store_address
        self._pool = pool
        self._host = host
        self._hit = hit
        self._progress = progress
        self._changed = threading.Condition()
        self._broken = ""  # why the group is unusable, once it is
        self._ended = False  # no page is written from here on
        self._group: Any = None
        self._wire = KvWire(pool)

    @property
    def key(self) -> LinkKey:
        return self._key

    # --- opening and breaking ---------------------------------------------------------------------------------

    def open(self, timeout_s: float) -> None:
        """Meet the other end and compare pool geometries.

        Raises:
            LinkError: the peer did not come, its store is gone, or its pool differs.
        """
        deadline = Deadline(timeout_s)
        self._run(lambda: self._join(deadline), deadline)

    def _join(self, deadline: Deadline) -> None:
        group = join_group(self._store_address, self._name, RANK[self._role], 2, self._host, deadline.left_s())
        with self._changed:
            if self._broken:
                return  # left behind: nobody has seen this group, and it goes with this frame
            self._group = group
        sentinel = self._post("recv", empty_header(), SENTINEL_TAG)
        threading.Thread(target=self._watch, args=(sentinel,), name=f"watch {self._key.name}", daemon=True).start()
        mine, theirs = empty_header(), empty_header()
        write_header(mine.numpy(), self._wire.hello())
        for work in (self._post("recv", theirs, CONTROL_TAG), self._post("send", mine, CONTROL_TAG)):
            self._wait(work, deadline)
        self._wire.check_hello(theirs.numpy())

    def _watch(self, sentinel: Any) -> None:
        """Wait for the end of the connection: a receive that nothing matches ends with it."""
        try:
            with self._gloo_errors():
                sentinel.wait(timedelta(days=365))
        except LinkError as error:
            with self._changed:
                self._broken = self._broken or str(error)
                self._changed.notify_all()

    def abort(self) -> None:
        """Break the group from any thread; a blocked call ends with LinkError within milliseconds. Idempotent.

        `ProcessGroupGloo.abort` wakes nobody. An operation that times out closes the connection, at both ends.
        """
        with self._changed:
            self._ended = True
            self._broken = self._broken or "aborted"
            self._changed.notify_all()
            group = self._group
        if group is not None:
            with suppress(RuntimeError):
                group.recv([empty_header()], self._peer, ABORT_TAG).wait(timedelta(milliseconds=1))

    def _run(self, work: Callable[[], None], deadline: Deadline) -> None:
        """Run blocking calls in a thread that can be left behind; after a LinkError the peer's end is broken too.

        For gloo does not wake a wait when the connection ends in the middle of a message, and a TCPStore client waits
        without any limit for a store whose process hangs. A thread that is left behind ends by the deadline, or with
        the process it waits for; until then it keeps the group and the staging memory that gloo may still touch.
        """
        outcome: list[Exception | None] = []

        def call() -> None:
            problem: Exception | None = None
            try:
                work()
            except Exception as error:
                problem = error
            with self._changed:
                outcome.append(problem)
                self._changed.notify_all()

        with self._changed:
            if self._broken:
                raise LinkError(self._broken)
            threading.Thread(target=call, name=f"move {self._key.name}", daemon=True).start()
            self._changed.wait_for(lambda: outcome or self._broken, deadline.left_s() + GRACE_S)
            # A peer may close after its last byte; what has arrived is still used.
            self._changed.wait_for(lambda: outcome or self._ended or not self._broken, GRACE_S)
            problem = outcome[0] if outcome else LinkError(self._broken or "no answer in time")
        if isinstance(problem, LinkError):
            self.abort()
        if problem is not None:
            raise problem

    # --- parts ------------------------------------------------------------------------------------------------

    def send(
        self,
        transfer_id: str,
        attempt: int,
        part: int,
        blocks: Sequence[int],
        timeout_s: float,
        step_id: int | None = None,
    ) -> None:
        """Send blocks of the pool; while a layer group is on the wire, the next one is gathered.

        With `step_id`, a layer group is gathered once that step has computed it.

        Raises:
            LinkError: the group is unusable from here on.
        """
        deadline = Deadline(timeout_s)
        index = torch.tensor(blocks, dtype=torch.int64)
        named = Part(digest(transfer_id), attempt, part)
        self._run(lambda: self._send(named, index, step_id, deadline), deadline)

    def receive(self, transfer_id: str, attempt: int, part: int, blocks: Sequence[int], timeout_s: float) -> None:
        """Receive into blocks of the pool; a layer group is written when its header and its checksum agree.

        Raises:
            ChecksumError: bytes are wrong; the part was taken off the link, which still works.
            LinkError: the group is unusable from here on.
        """
        deadline = Deadline(timeout_s)
        index = torch.tensor(blocks, dtype=torch.int64)
        named = Part(digest(transfer_id), attempt, part)
        self._run(lambda: self._receive(named, index, deadline), deadline)

    def _send(self, part: Part, blocks: Tensor, step_id: int | None, deadline: Deadline) -> None:
        for first, count in self._wire.ranges(len(blocks)):
            works: list[Any] = []  # all kept to the end: dropping one while bytes flow waits for gloo's lock
            index = blocks[first : first + count]
            asked = empty_header()
            ask = self._post("recv", asked, CONTROL_TAG)
            for message in self._wire.messages(count, slots=2):
                fault = self._hit("sending", message.group)
                if len(works) >= 2:
                    self._wait(works[-2], deadline)
                if step_id is not None:
                    self._progress.wait(step_id, self._pool.layer_group(message.group).stop, deadline.left_s())
                self._pool.gather(message.group, index, message.staging)
                total = checksum(message.staging, self._pool.first_kv_head)
                write_header(message.header, [*self._wire.words(part, message.group, first, count), total])
                if fault == "corrupt":
                    message.buffer[-1] ^= 1
                if message.group == 0:
                    self._wait(ask, deadline)
                    check_header(asked.numpy(), self._wire.words(part, WHOLE_RANGE, first, count))
                works.append(None if fault == "drop" else self._post("send", message.buffer, message.group + 1))
            for work in works[-2:]:
                self._wait(work, deadline)

    def _receive(self, part: Part, blocks: Tensor, deadline: Deadline) -> None:
        intact = True
        for first, count in self._wire.ranges(len(blocks)):
            messages = list(self._wire.messages(count, slots=self._pool.num_layer_groups))
            works = [self._post("recv", message.buffer, message.group + 1) for message in messages]
            ask = self._ask(self._wire.words(part, WHOLE_RANGE, first, count))
            for message, work in zip(messages, works, strict=True):
                fault = self._hit("receiving", message.group)
                self._wait(work, deadline)
                if fault == "corrupt":
                    message.buffer[-1] ^= 1
                total = check_header(message.header, self._wire.words(part, message.group, first, count))
                intact = intact and checksum(message.staging, self._pool.first_kv_head) == total
                if intact:
                    self._write(message, blocks[first : first + count])
            self._wait(ask, deadline)
        if not intact:
            raise ChecksumError("bytes changed on the way")

    def _ask(self, words: list[int]) -> Any:
        """Begin to send the header that asks for a block range."""
        asked = empty_header()
        write_header(asked.numpy(), words)
        return self._post("send", asked, CONTROL_TAG)

    def _write(self, message: Message, blocks: Tensor) -> None:
        """Put checked pages where they belong, but for those that nobody wants."""
        wanted = blocks != DISCARD
        with self._changed:
            if self._ended:  # the blocks may belong to somebody else by now
                raise LinkError(self._broken)
            if wanted.all():
                self._pool.scatter(message.group, blocks, message.staging)
            elif wanted.any():
                self._pool.scatter(message.group, blocks[wanted], message.staging[:, :, wanted])

    def _post(self, what: str, tensor: Tensor, tag: int) -> Any:
        """Begin to send or receive; the returned work keeps the tensor alive."""
        with self._gloo_errors():
            return getattr(self._group, what)([tensor], self._peer, tag)

    def _wait(self, work: Any, deadline: Deadline) -> None:
        if self._ended:
            raise LinkError(self._broken)
        if work is not None:
            with self._gloo_errors():
                work.wait(timedelta(seconds=deadline.left_s()))

    @contextmanager
    def _gloo_errors(self) -> Iterator[None]:
        """Turn an error of torch.distributed into LinkError, and name the abort where it was one."""
        try:
            with gloo_errors():
                yield
        except LinkError as error:
            if self._broken == "aborted":
                raise LinkError("aborted") from error
            raise
