"""The shared tier: answers of all front doors in one Redis, followed by a stream, so that a miss never asks it.

Any Redis from 7 on will do: documents are strings with an expiry, changes an append-only stream. Each front door holds
every entry in its own memory; it reads all documents when it starts, or when it has lost the stream's thread, and
follows the stream from there. Whatever Redis does, requests go on: what cannot be written is dropped and counted, and
after a failure nothing is tried for a while. A document that is not whole, or whose writer may not have known of an
invalidation, is never used.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from redis.asyncio import Redis

from services.core.clock import NS_PER_MS, Clock
from services.core.errors import ConfigError
from services.core.request import FinishReason
from services.core.seeds import new_request_id
from services.semcache.config import RedisConfig
from services.semcache.gate import Answer
from services.semcache.index import CacheIndex, Entry
from services.semcache.reading import Features, Word

logger = logging.getLogger(__name__)

MAX_PENDING = 1000
"""Changes that wait to be written; more are dropped, oldest first."""
STREAM_LENGTH = 20_000
BLOCK_MS = 500
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
"""After a failure nothing is tried for so long, twice as long after each further one."""
CANCEL_AGAIN_S = 0.1
HEX = frozenset("0123456789abcdef")

Change = dict[str, str]


class SharedStore:
    """Keeps one front door's index in step with Redis.

    Args:
        connect: makes a client (redis.asyncio.Redis, decoded replies), with timeouts of its own.
        index: of this front door; changed on the event loop alone.
        prefix: of every key.

    Attributes:
        up: whether Redis answered last.
        counts: what happened: written, dropped, loaded, followed, refused, failed, reloaded.
    """

    def __init__(self, connect: Callable[[], Any], index: CacheIndex, clock: Clock, prefix: str) -> None:
        self._connect = connect
        self._index = index
        self._clock = clock
        self._prefix = prefix
        self._name = new_request_id()
        self._seen = Number("0-0")  # every change up to here is in the index
        self._epochs: dict[str, Number] = {}  # last invalidation by scope, or category behind "="; "" of all
        self._pending: list[tuple[Change, str, int]] = []  # change, document, expiry in Unix milliseconds
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.up = False
        self.counts: Counter[str] = Counter()
        self.loaded = asyncio.Event()

    def start(self) -> None:
        """Read what there is, then follow and write, until `close`."""
        self._tasks = [asyncio.create_task(self._again(work)) for work in (self._follow, self._write)]

    async def close(self) -> None:
        """Stop; what was not written is lost."""
        running = set(self._tasks)
        while running:  # the client's wait_for swallows a cancel that comes as its answer does
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)

    # --- what this front door changes ---------------------------------------------------------------------------

    def put(self, entry: Entry, vector: Any) -> None:
        """An entry was kept here."""
        now, unix_ms = self._clock.now_ns(), self._clock.unix_ms()
        expires_ms = unix_ms + (entry.expires_ns - now) // NS_PER_MS
        written_ms = unix_ms - (now - entry.written_ns) // NS_PER_MS
        document = encode_entry(entry, vector, written_ms, expires_ms, self._seen)
        self._change({"op": "put", "exact": entry.exact}, document, expires_ms)

    def delete(self, exact: str) -> None:
        """An entry was deleted here, or was said to be wrong."""
        self._change({"op": "delete", "exact": exact})

    def invalidate(self, scope: bytes | None, category: str = "") -> None:
        """All entries of a scope or a category, or all there are, hold no more."""
        named = f"={category}" if category else ""
        self._change({"op": "epoch", "scope": named if scope is None else scope.hex()})

    def _change(self, change: Change, document: str = "", expires_ms: int = 0) -> None:
        self._pending.append(({**change, "by": self._name}, document, expires_ms))
        if len(self._pending) > MAX_PENDING:
            # An invalidation is never dropped for an answer: it is what keeps wrong answers away.
            place = next((i for i, each in enumerate(self._pending) if each[0]["op"] == "put"), 0)
            del self._pending[place]
            self.counts["dropped"] += 1
        self._news.set()

    # --- Redis ----------------------------------------------------------------------------------------------------

    async def _again(self, work: Callable[[Any], Awaitable[None]]) -> None:
        """Run for ever; a failure closes the connection and waits longer each time (a circuit breaker)."""
        pause_s = FIRST_PAUSE_S
        while True:
            client = self._connect()
            try:
                await client.ping()
                self.up, pause_s = True, FIRST_PAUSE_S
                await work(client)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self.up = False
                self.counts["failed"] += 1
                logger.warning("the shared cache is not reached: %s", type(error).__name__)
            finally:
                await client.aclose()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _write(self, client: Any) -> None:
        while True:
            while not self._pending:
                self._news.clear()
                await self._news.wait()
            change, document, expires_ms = self._pending[0]
            batch = client.pipeline(transaction=True)
            key = f"{self._prefix}:e:{change.get('exact', '')}"
            if change["op"] == "put":
                batch.set(key, document, pxat=expires_ms)
            elif change["op"] == "delete":
                batch.delete(key)
            batch.xadd(f"{self._prefix}:log", change, maxlen=STREAM_LENGTH, approximate=True)
            number = (await batch.execute())[-1]
            if change["op"] == "epoch":
                self._epochs[change["scope"]] = Number(number)
                await client.hset(f"{self._prefix}:epochs", change["scope"], number)
                await self._sweep(client, change["scope"])
            self.counts["written"] += 1
            if self._pending and self._pending[0][0] is change:
                del self._pending[0]

    async def _sweep(self, client: Any, scope: str) -> None:
        """Delete the documents of a scope or category, or all; their entries are gone from every memory by then."""
        async for key in client.scan_iter(match=f"{self._prefix}:e:*", count=500):
            document = await client.get(key)
            found = {} if document is None else json.loads(document)
            if not scope or scope in (found.get("scope"), f"={found.get('category')}"):
                await client.delete(key)

    async def _follow(self, client: Any) -> None:
        """Read everything, then every change from there on."""
        log = f"{self._prefix}:log"
        self._seen = last = await self._last(client, log)
        self._epochs |= {scope: Number(at) for scope, at in (await client.hgetall(f"{self._prefix}:epochs")).items()}
        await self._load(client)
        while True:
            found = await client.xread({log: last}, count=100, block=BLOCK_MS)
            if not found:
                if await self._last(client, log) < last:  # flushed, or another Redis: the thread is lost
                    self.counts["reloaded"] += 1
                    return
                continue
            for number, change in found[0][1]:
                if change.get("by") != self._name:
                    await self._apply(client, change, Number(number))
                self._seen = last = Number(number)

    async def _last(self, client: Any, log: str) -> Number:
        found = await client.xrevrange(log, count=1)
        return Number(found[0][0] if found else "0-0")

    async def _load(self, client: Any) -> None:
        async for key in client.scan_iter(match=f"{self._prefix}:e:*", count=500):
            document = await client.get(key)
            if document is not None and self._take(key.rpartition(":")[2], document):
                self.counts["loaded"] += 1
        self.loaded.set()

    async def _apply(self, client: Any, change: Change, number: Number) -> None:
        match change.get("op"):
            case "put":
                exact = change.get("exact", "")
                document = await client.get(f"{self._prefix}:e:{exact}")
                if document is not None and self._take(exact, document):
                    self.counts["followed"] += 1
            case "delete":
                self._index.delete_exact(change.get("exact", ""))
            case "epoch":
                scope = change.get("scope", "")
                self._epochs[scope] = number
                if scope.startswith("="):
                    self._index.invalidate(category=scope[1:])
                else:
                    self._index.invalidate(bytes.fromhex(scope) if scope else None)

    def _is_over(self, entry: Entry, seen: Number) -> bool:
        """Whether its writer may not have known of an invalidation."""
        names = ("", entry.scope.hex(), f"={entry.category}")
        return any(seen < self._epochs.get(name, "0-0") for name in names)

    def _take(self, exact: str, document: str) -> bool:
        """Put a document of another front door into the index; False where anything about it is in doubt."""
        now, unix_ms = self._clock.now_ns(), self._clock.unix_ms()
        try:
            entry, vector, seen = decode_entry(document, self._index, now, unix_ms)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.counts["refused"] += 1
            return False
        if entry.exact != exact or self._is_over(entry, seen):
            self.counts["refused"] += 1
            return False
        held = self._index.get(now, exact)
        if self._index.refusal(now, entry) or (held is not None and held.holds(now)):
            return False
        self._index.put(now, entry, vector)
        return True


def redis_client(config: RedisConfig) -> Callable[[], Any]:
    """Makes connections to the configured Redis; its address is in no message.

    Raises:
        ConfigError: the address cannot be one.
    """
    assert config.url is not None, "callers have looked"
    try:
        Redis.from_url(config.url)
    except ValueError:
        raise ConfigError("redis.url", "(not shown)", "is no address; give redis://host:port/0") from None
    url, timeout_s = config.url, config.timeout_s
    secret: dict[str, Any] = {}
    if config.password_file is not None:
        try:
            secret = {"password": Path(config.password_file).expanduser().read_text(encoding="utf-8").strip()}
        except OSError as error:
            raise ConfigError(
                "redis.password_file", config.password_file, f"cannot be read ({error.strerror})"
            ) from None
    return lambda: Redis.from_url(
        url, decode_responses=True, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, **secret
    )


class Number(str):
    """A stream's position; later ones are greater."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return _parts(self) < _parts(other)


def _parts(number: str) -> tuple[int, int]:
    time, _, count = number.partition("-")
    return int(time), int(count or 0)


def encode_entry(entry: Entry, vector: Any, written_ms: int, expires_ms: int, seen: str) -> str:
    """An entry as JSON; times on the clock that crosses processes; of the question what the gate sees."""
    answer = entry.answer
    return json.dumps(
        {
            "seen": seen,
            "exact": entry.exact,
            "partition": entry.partition,
            "scope": entry.scope.hex(),
            "category": entry.category,
            "min_similarity": entry.min_similarity,
            "adaptive": entry.adaptive,
            "ttl_ms": entry.ttl_ns // NS_PER_MS,
            "written_ms": written_ms,
            "expires_ms": expires_ms,
            "token_ids": answer.token_ids,
            "prompt_tokens": answer.prompt_tokens,
            "seconds": answer.seconds,
            "features": None if entry.features is None else asdict(entry.features),
            "vector": None if vector is None else base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode(),
        }
    )


def decode_entry(document: str, index: CacheIndex, now: int, unix_ms: int) -> tuple[Entry, Any, Number]:
    """An entry of another front door under this one's name and clock, its vector, and what its writer had seen.

    Raises:
        ValueError, KeyError, TypeError: it is not whole.
    """
    found = json.loads(document)
    if not all(len(found[name]) == 64 and HEX.issuperset(found[name]) for name in ("exact", "partition", "scope")):
        raise ValueError("names are not digests")
    vector = None if found["vector"] is None else np.frombuffer(base64.b64decode(found["vector"]), "<f4")
    if vector is not None and (vector.shape != (index.dim,) or abs(float(vector @ vector) - 1) > 1e-3):
        raise ValueError("the vector is of another embedder")
    if (vector is None) != (found["features"] is None) or not index.knows(found["category"]):
        raise ValueError("parts are missing, or the category is not known")
    tokens = tuple(int(each) for each in found["token_ids"])
    scope = bytes.fromhex(found["scope"])
    entry = Entry(
        entry_id=index.new_id(),
        exact=found["exact"],
        partition=found["partition"],
        scope=scope,
        category=found["category"],
        answer=Answer(tokens, FinishReason.STOP, "", int(found["prompt_tokens"]), float(found["seconds"])),
        min_similarity=float(found["min_similarity"]),
        epochs=index.epochs(scope, found["category"]),
        written_ns=now - max(unix_ms - int(found["written_ms"]), 0) * NS_PER_MS,
        expires_ns=now + (int(found["expires_ms"]) - unix_ms) * NS_PER_MS,
        features=None if found["features"] is None else _features(found["features"]),
        vector_bytes=0 if vector is None else 8 * len(vector),
        adaptive=found["adaptive"] is True,
        ttl_ns=int(found["ttl_ms"]) * NS_PER_MS,
    )
    seen = Number(found["seen"])
    _parts(seen)
    return entry, vector, seen


def _features(found: dict[str, Any]) -> Features:
    content = tuple(Word(**each) for each in found["content"])
    lists = {name: tuple(found[name]) for name in ("quoted", "exact", "people", "endings")}
    return Features(**{**found, **lists, "content": content})
