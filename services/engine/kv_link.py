"""The KV link over gloo: a 2-rank group on the receiver's own store, pages gathered, checked and scattered in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from services.core.actions import DISCARD, LinkRole
from services.core.peer import LinkKey
from services.core.ports import ChecksumError, LinkError
from services.engine.checksum import checksum
from services.engine.kv_pool import PagedKvPool

MAGIC = 0x5452_4950_0001
HEADER_WORDS = 10
RANK = {LinkRole.SENDER: 0, LinkRole.RECEIVER: 1}
FaultHook = Callable[[str, int | None], str | None]


class StoreServer:
    """The TCPStore on which this worker's incoming links meet; nothing else depends on it."""

    def __init__(self, host: str, ports: tuple[int, int]) -> None:
        self._store: dist.TCPStore | None = None
        candidates = [0] if ports == (0, 0) else range(ports[0], ports[1] + 1)
        problem = ""
        for port in candidates:
            try:
                self._store = dist.TCPStore(host, port, is_master=True, wait_for_workers=False)
                break
            except (RuntimeError, dist.DistNetworkError) as error:
                problem = str(error).splitlines()[0]
        if self._store is None:
            raise LinkError(f"no free port in {ports[0]}..{ports[1]} for the KV store: {problem}")
        self.address = f"{host}:{self._store.port}"

    def close(self) -> None:
        """Stop serving; links that are open go on."""
        self._store = None


class GlooLink:
    """One end of a link."""

    def __init__(
        self, key: LinkKey, role: LinkRole, store_address: str, pool: PagedKvPool, host: str, hit: FaultHook
    ) -> None:
        self._key = key
        self._role = role
        self._store_address = store_address
        self._pool = pool
        self._host = host
        self._hit = hit
        self._group: dist.ProcessGroupGloo | None = None
        self._peer = 1 - RANK[role]
        self._staging: list[Tensor] = []
        self._headers = [torch.zeros(HEADER_WORDS, dtype=torch.int64) for _ in range(2)]

    @property
    def key(self) -> LinkKey:
        return self._key

    def open(self, timeout_s: float) -> None:
        host, _, port = self._store_address.rpartition(":")
        timeout = timedelta(seconds=timeout_s)
        try:
            store = dist.TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=timeout)
            options = dist.ProcessGroupGloo._Options()
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=self._host)]
            options._timeout = timeout
            options._threads = 1
            self._group = dist.ProcessGroupGloo(
                dist.PrefixStore(self._key.name, store), RANK[self._role], 2, options
            )
        except (RuntimeError, dist.DistError) as error:
            raise LinkError(f"open: {str(error).splitlines()[0]}") from error

    def send(self, transfer_id: str, attempt: int, part: int, blocks: Sequence[int], timeout_s: float) -> None:
        index = torch.tensor(blocks, dtype=torch.int64)
        works: list[list[dist.Work]] = [[], []]
        for group in range(self._pool.num_layer_groups):
            fault = self._hit("sending", group)
            slot = group % 2
            self._wait(works[slot], timeout_s)
            staging = self._buffer(slot, group, len(blocks))
            self._pool.gather(group, index, staging)
            header = self._header(transfer_id, attempt, part, group, staging, len(blocks), checksum(staging))
            if fault == "corrupt":
                staging.view(torch.int32).view(-1)[7] ^= 1
            self._headers[slot].copy_(header)
            works[slot] = [self._post("send", self._headers[slot]), self._post("send", staging)]
        for pending in works:
            self._wait(pending, timeout_s)

    def receive(self, transfer_id: str, attempt: int, part: int, blocks: Sequence[int], timeout_s: float) -> None:
        index = torch.tensor(blocks, dtype=torch.int64)
        keep = DISCARD not in blocks
        groups = self._pool.num_layer_groups
        works: list[list[dist.Work]] = [[], []]
        bad = False

        def post(group: int) -> None:
            slot = group % 2
            staging = self._buffer(slot, group, len(blocks))
            works[slot] = [self._post("recv", self._headers[slot]), self._post("recv", staging)]

        for group in range(min(2, groups)):
            post(group)
        for group in range(groups):
            self._hit("receiving", group)
            slot = group % 2
            self._wait(works[slot], timeout_s)
            staging = self._buffer(slot, group, len(blocks))
            got = self._headers[slot]
            if not torch.equal(
                got[:-1], self._header(transfer_id, attempt, part, group, staging, len(blocks), 0)[:-1]
            ):
                raise LinkError("protocol: the header is of another part")
            if keep:
                bad = bad or int(got[-1]) != checksum(staging)
                if not bad:
                    self._pool.scatter(group, index, staging)
            if group + 2 < groups:
                post(group + 2)
        if bad:
            raise ChecksumError(f"{transfer_id} part {part}")

    def abort(self) -> None:
        group = self._group
        if group is not None:
            group.abort()

    def _header(
        self, transfer_id: str, attempt: int, part: int, group: int, staging: Tensor, blocks: int, total: int
    ) -> Tensor:
        digest = int.from_bytes(hashlib.blake2b(transfer_id.encode(), digest_size=8).digest(), "little") >> 1
        layers = self._pool.layer_group(group)
        size = staging.numel() * staging.itemsize
        return torch.tensor(
            [MAGIC, digest, attempt, part, group, layers.start, layers.stop, blocks, size, total], dtype=torch.int64
        )

    def _buffer(self, slot: int, group: int, blocks: int) -> Tensor:
        shape = self._pool.staging_shape(group, blocks)
        size = 1
        for extent in shape:
            size *= extent
        while len(self._staging) <= slot:
            self._staging.append(torch.empty(0, dtype=self._pool.dtype))
        if self._staging[slot].numel() < size:
            self._staging[slot] = torch.empty(size, dtype=self._pool.dtype)
        return self._staging[slot][:size].view(shape)

    def _post(self, what: str, tensor: Tensor) -> dist.Work:
        if self._group is None:
            raise LinkError("not open")
        try:
            work: dist.Work = getattr(self._group, what)([tensor], self._peer, 0)
        except RuntimeError as error:
            raise LinkError(str(error).splitlines()[0]) from error
        return work

    def _wait(self, works: list[dist.Work], timeout_s: float) -> None:
        for work in works:
            try:
                work.wait(timedelta(seconds=timeout_s))
            except RuntimeError as error:
                raise LinkError(str(error).splitlines()[0]) from error
