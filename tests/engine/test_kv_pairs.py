"""Links between workers of several ranks: a pair for every head, bytes arrive at any split, a broken pair ends all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.actions import LinkRole
from services.core.peer import LinkKey
from services.engine.checksum import checksum
from services.engine.kv_pairs import pairs, pairs_of
from services.engine.shard import split
from tests.engine.link_peer import Peer, PeerFailed, Side, key

HEADS = 3
SIZES = {"num_layers": 5, "num_blocks": 12, "block_size": 16, "head_dim": 8, "layers_per_group": 2}
epochs = iter(range(1, 1000))


@given(st.integers(1, 40), st.data())
def test_every_head_has_one_pair_and_pairs_form_a_chain(heads: int, data: st.DataObject) -> None:
    ranks = st.integers(1, min(heads, 16))
    senders, receivers = data.draw(ranks), data.draw(ranks)
    found = pairs(heads, senders, receivers)
    assert [head for pair in found for head in pair.heads] == list(range(heads))
    assert len({pair.name for pair in found}) == len(found)
    for pair in found:
        assert set(pair.heads) <= set(split(heads, senders)[pair.sender])
        assert set(pair.heads) <= set(split(heads, receivers)[pair.receiver])
    steps = [(after.sender - before.sender, after.receiver - before.receiver) for before, after in pairwise(found)]
    assert set(steps) <= {(0, 1), (1, 0), (1, 1)}
    for rank in range(senders):
        assert pairs_of(LinkRole.SENDER, rank, heads, senders, receivers) == [p for p in found if p.sender == rank]
    for rank in range(receivers):
        assert pairs_of(LinkRole.RECEIVER, rank, heads, receivers, senders) == [p for p in found if p.receiver == rank]


def sizes(ranks: int, rank: int) -> dict[str, int]:
    """Of the pool of one rank."""
    heads = split(HEADS, ranks)[rank]
    return {**SIZES, "num_kv_heads": len(heads), "first_kv_head": heads.start, "total_kv_heads": HEADS}


class Worker:
    """All ranks of a worker, each in a process of its own."""

    def __init__(self, ranks: int, seed: int) -> None:
        self.ranks = ranks
        self.peers = [Peer(sizes(ranks, rank), seed + rank) for rank in range(ranks)]

    def start(self, method: str, *arguments: object, **named: object) -> None:
        for peer in self.peers:
            peer.start(method, *arguments, **named)

    def results(self) -> list[object]:
        """Every rank's answer, an error as its text."""
        found: list[object] = []
        for peer in self.peers:
            try:
                found.append(peer.result())
            except PeerFailed as failed:
                found.append(str(failed))
        return found

    def pages(self, blocks: list[int]) -> np.ndarray:
        """[layers, 2, blocks, all heads, block_size, head_dim]."""
        return np.concatenate([peer.call("pages", blocks) for peer in self.peers], axis=3)

    def close(self) -> None:
        for peer in self.peers:
            peer.close()


@contextmanager
def linked(senders: int, receivers: int) -> Iterator[tuple[Worker, Worker, LinkKey]]:
    """Two workers with an open link."""
    sender, receiver = Worker(senders, seed=1), Worker(receivers, seed=10)
    try:
        link = key(next(epochs))
        address = receiver.peers[0].call("serve")
        for rank, peer in enumerate(sender.peers):
            peer.start("open_rank", link, "sender", address, rank, senders, receivers)
        for rank, peer in enumerate(receiver.peers):
            peer.start("open_rank", link, "receiver", address, rank, receivers, senders)
        assert sender.results() + receiver.results() == [None] * (senders + receivers)
        yield sender, receiver, link
    finally:
        sender.close()
        receiver.close()


@pytest.mark.parametrize(("senders", "receivers"), [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)], ids=str)
def test_every_head_arrives_and_nothing_else_changes(senders: int, receivers: int) -> None:
    with linked(senders, receivers) as (sender, receiver, link):
        others = [block for block in range(12) if block not in (2, 9, 4)]
        before = receiver.pages(others)
        for part, (source, target) in enumerate([([7, 1, 3], [2, 9, 4]), ([5], [9])]):
            receiver.start("receive", link, target, part=part)
            sender.start("send", link, source, part=part)
            assert not any(isinstance(answer, str) for answer in sender.results() + receiver.results())
            assert np.array_equal(receiver.pages(target), sender.pages(source))
        assert np.array_equal(receiver.pages(others), before)


def test_a_changed_byte_of_one_pair_fails_its_rank_and_the_link_goes_on() -> None:
    with linked(2, 1) as (sender, receiver, link):
        sender.peers[0].call("arm", "sending=1:corrupt")
        receiver.start("receive", link, [2])
        sender.start("send", link, [7])
        assert sender.results() == [None, None]
        assert "ChecksumError" in str(receiver.results()[0])
        receiver.start("receive", link, [2], attempt=2)
        sender.start("send", link, [7], attempt=2)
        sender.results(), receiver.results()
        assert np.array_equal(receiver.pages([2]), sender.pages([7]))


def test_a_pair_that_breaks_ends_the_link_at_the_rank_it_shares() -> None:
    with linked(2, 1) as (sender, receiver, link):
        receiver.start("receive", link, [2], timeout_s=60.0)
        sender.peers[1].process.kill()
        sender.peers[0].call("send", link, [7])
        assert "LinkError" in str(receiver.results()[0])


def test_sums_of_pairs_add_up_to_the_sum_of_all_heads() -> None:
    side = Side(sizes(1, 0), seed=3)
    whole = side.pool.gather(0, [4, 5], side.pool.data.new_empty(side.pool.staging_shape(0, 2)))
    sums = []
    for pair in pairs(HEADS, 1, 2):
        part = side.pool.part(pair.heads)
        staging = part.gather(0, [4, 5], part.data.new_empty(part.staging_shape(0, 2)))
        sums.append(checksum(staging, part.first_kv_head))
    assert sum(sums) % 2**32 == checksum(whole)
