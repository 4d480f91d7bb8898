"""The link between two workers of several ranks: which ranks meet over which KV heads, and their links as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.core.actions import LinkRole, OpenLink
from services.core.peer import LinkKey
from services.core.ports import ChecksumError, KvLink
from services.engine.gloo import Deadline
from services.engine.kv_link import FaultHook, GlooLink
from services.engine.kv_pool import PagedKvPool
from services.engine.shard import split
from services.engine.step_progress import StepProgress


@dataclass(frozen=True, slots=True)
class Pair:
    """A rank of the sender and a rank of the receiver that hold the same KV heads (global numbers)."""

    sender: int
    receiver: int
    heads: range

    @property
    def name(self) -> str:
        """What tells its group from those of the other pairs of a link."""
        return f"{self.sender}-{self.receiver}"


def pairs(kv_heads: int, sender_ranks: int, receiver_ranks: int) -> list[Pair]:
    """Who meets whom: every KV head of the model is in exactly one pair, in order."""
    found = []
    for sender, sent in enumerate(split(kv_heads, sender_ranks)):
        for receiver, received in enumerate(split(kv_heads, receiver_ranks)):
            heads = range(max(sent.start, received.start), min(sent.stop, received.stop))
            if heads:
                found.append(Pair(sender, receiver, heads))
    return found


def pairs_of(role: LinkRole, rank: int, kv_heads: int, ranks: int, peer_ranks: int) -> list[Pair]:
    """The pairs of one rank of a worker.

    Args:
        role: of this worker.
        ranks: of this worker.
        peer_ranks: of the worker at the other end.
    """
    if role is LinkRole.SENDER:
        return [pair for pair in pairs(kv_heads, ranks, peer_ranks) if pair.sender == rank]
    return [pair for pair in pairs(kv_heads, peer_ranks, ranks) if pair.receiver == rank]


class PairedLink:
    """One rank's end of a link: a link for each pair it is in, used one after the other in the order of the heads.

    The pairs of a link form one chain in which neighbours share a rank, and both ends go through it in the same order;
    so the first pair that is not done always has both its ranks waiting for it, and no two ranks wait for each other.

    Args:
        key: of the whole link.
        links: of this rank's pairs, in order.
    """

    def __init__(self, key: LinkKey, links: Sequence[KvLink]) -> None:
        self._key = key
        self._links = tuple(links)

    @property
    def key(self) -> LinkKey:
        return self._key

    def open(self, timeout_s: float) -> None:
        """Meet the other ends, all within the time.

        Raises:
            LinkError: a pair did not come together.
        """
        deadline = Deadline(timeout_s)
        for link in self._links:
            link.open(deadline.left_s())

    def send(
        self,
        transfer_id: str,
        attempt: int,
        part: int,
        blocks: Sequence[int],
        timeout_s: float,
        step_id: int | None = None,
    ) -> None:
        """Send every pair its heads of these blocks.

        Raises:
            LinkError: a pair broke, and with it the link.
        """
        self._each(lambda link, left_s: link.send(transfer_id, attempt, part, blocks, left_s, step_id), timeout_s)

    def receive(self, transfer_id: str, attempt: int, part: int, blocks: Sequence[int], timeout_s: float) -> None:
        """Receive every pair's heads of these blocks.

        Raises:
            ChecksumError: a pair's bytes are wrong; all pairs were taken off the link, which still works.
            LinkError: a pair broke, and with it the link.
        """
        self._each(lambda link, left_s: link.receive(transfer_id, attempt, part, blocks, left_s), timeout_s)

    def _each(self, work: Callable[[KvLink, float], None], timeout_s: float) -> None:
        deadline = Deadline(timeout_s)
        wrong: ChecksumError | None = None
        for link in self._links:
            try:
                work(link, deadline.left_s())
            except ChecksumError as error:
                wrong = error
        if wrong is not None:
            raise wrong

    def abort(self) -> None:
        """Break every pair, from any thread."""
        for link in self._links:
            link.abort()


def make_link(
    action: OpenLink,
    pool: PagedKvPool,
    host: str,
    hit: FaultHook,
    progress: StepProgress,
    rank: int = 0,
    ranks: int = 1,
) -> KvLink:
    """One rank's end of the link that `action` asks for, not opened.

    Args:
        pool: of this rank; the other arguments are those of `GlooLink`.
        rank: of this worker's `ranks`.
    """
    link, role = action.link, action.role
    found = pairs_of(role, rank, pool.total_kv_heads, ranks, action.peer_ranks)
    links = [
        GlooLink(link, role, action.store_address, pool.part(pair.heads), host, hit, progress, pair.name)
        for pair in found
    ]
    return links[0] if len(links) == 1 else PairedLink(link, links)
