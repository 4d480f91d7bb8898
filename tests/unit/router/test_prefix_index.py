"""Whose cache has which prefix: told exactly with numbers and snapshots, or guessed from what was sent."""

from __future__ import annotations

import random

from services.core.block_news import BlockNews
from services.core.clock import NS_PER_S
from services.kvcache.block_manager import BlockManager
from services.kvcache.prefix_cache import JOURNAL, NOTHING
from services.router.prefix_index import GUESS_NS, PENDING_NS, PrefixIndex


def hashes(*names: int) -> tuple[bytes, ...]:
    return tuple(name.to_bytes(16, "little") for name in names)


def test_guesses_end_and_the_oldest_make_room() -> None:
    index = PrefixIndex(12)
    index.sent(0, hashes(1, 2), 0)
    index.sent(5, hashes(1, 2, 3), 7)
    assert index.match(6, hashes(1, 2, 3, 4)) == [(0, 2), (7, 3)]
    assert index.match(6, hashes(9)) == []
    index.sent(6, hashes(10, 11, 12, 13), 1)
    assert index.match(7, hashes(1, 2, 3)) == [(0, 2), (7, 3)], "of the older generation"
    index.sent(8, hashes(14, 15, 16), 1)
    assert len(index) == 7
    assert index.match(9, hashes(1, 2, 3)) == [], "they made room"
    assert index.match(GUESS_NS + 7, hashes(10)) == [(1, 1)], "the older generation is forgotten with the next one"
    assert index.match(2 * GUESS_NS + 8, hashes(10)) == index.match(2 * GUESS_NS + 8, hashes(14)) == []


def test_told_blocks_win_over_guesses_and_a_gap_forgets_them() -> None:
    index = PrefixIndex(100)
    index.told(0, BlockNews(0, 3, b"".join(hashes(1, 2, 3)), b"", snapshot=True))
    index.told(0, BlockNews(3, 5, b"".join(hashes(4)), b"".join(hashes(3))))
    index.check()
    assert index.match(0, hashes(1, 2, 3, 4)) == [(0, 2)]
    index.sent(0, hashes(1, 2, 3), 0)
    assert index.match(PENDING_NS - 1, hashes(1, 2, 3)) == [(0, 3)], "it is on its way there"
    assert index.match(2 * PENDING_NS, hashes(1, 2, 3)) == [(0, 2)]
    index.told(0, BlockNews(6, 7, b"".join(hashes(9)), b""))
    assert (index.gaps, index.match(NS_PER_S * 9, hashes(1, 2))) == (1, [])
    index.told(0, BlockNews(7, 8, b"".join(hashes(8)), b""))
    assert index.match(NS_PER_S * 9, hashes(8)) == [], "nothing is believed before a snapshot"
    index.told(0, BlockNews(0, 8, b"".join(hashes(1, 8)), b"", snapshot=True))
    assert index.match(NS_PER_S * 9, hashes(1, 8)) == [(0, 2)]
    index.lost(0)
    index.check()
    assert index.match(0, hashes(1)) == []


def test_the_index_follows_a_real_pool_through_lost_news() -> None:
    chance = random.Random(4)
    manager, index, told = BlockManager(24, 4, 0.0, True), PrefixIndex(0), NOTHING
    held: list[list[int]] = []
    for _ in range(400):
        prompt = [chance.randrange(3) for _ in range(5)]
        chain = hashes(*(sum(each * 4**i for i, each in enumerate(prompt[: n + 1])) + n * 10**6 for n in range(5)))
        found = manager.allocate(20, chain, 20)
        if found is None:
            manager.free(held.pop(0))
            continue
        manager.publish(found.blocks, chain, 20)
        held.append(found.blocks)
        if chance.random() < 0.5:
            continue
        news = manager.news(told)
        if news is None:
            continue
        if chance.random() < 0.1:
            told = news.end if chance.random() < 0.5 else NOTHING  # the news are lost; the sender may know
            continue
        index.told(3, news)
        told = news.end if 3 in index._sequences else NOTHING
        index.check()
        if 3 in index._sequences:
            assert sorted(index._held[3]) == sorted(manager._cache._block_of)
    assert index.gaps and index.resyncs


def test_who_heard_too_little_gets_a_snapshot() -> None:
    manager = BlockManager(4, 4, 0.0, True)
    for number in range(JOURNAL // 2 + 9):
        found = manager.allocate(4, (), 0)
        assert found is not None
        manager.publish(found.blocks, hashes(number), 4)
        manager.free(found.blocks)
    news = manager.news(0)
    assert news is not None and news.snapshot
    assert len(news.added) == 4 * 16
    last = manager.news(news.end - 1)
    assert last is not None and not last.snapshot
    assert manager.news(news.end) is None
