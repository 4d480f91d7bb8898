"""One thread that embeds and judges questions beside the event loop: texts that wait go together."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from services.core.clock import NS_PER_S, WallClock
from services.semcache.cache import read
from services.semcache.embedder import Embedder, Judge, Understood

MAX_BATCH = 16
MAX_WAITING = 256
"""Questions that wait; more are not looked at, for a late answer helps nobody."""
NICENESS = 5
SWITCH_S = 0.0005
"""The loop lets a thread that waits for the interpreter run after this long, a tenth of Python's own: so a question is
embedded while its request is placed. Most of that runs without the interpreter."""


class EmbeddingThread:
    """Reads questions.

    Args:
        embedder: blocking; its thread alone uses it.
        judge: the same; None: nobody judges.

    Attributes:
        embedded: questions so far.
        batches: runs so far.
        refused: questions that found too many waiting.
        seconds: that batches took, from their start to their vectors.
        judged: pairs of questions so far.
    """

    def __init__(self, embedder: Embedder, judge: Judge | None = None) -> None:
        sys.setswitchinterval(SWITCH_S)
        self._embedder = embedder
        self.judge = judge
        self._waiting: list[tuple[str, asyncio.Future[Understood]]] = []
        self._runs = self._closed = False
        self._thread = ThreadPoolExecutor(1, "embedding")
        self._upkeep = ThreadPoolExecutor(1, "cache-upkeep", _give_way)
        self._clock = WallClock()
        self.embedded = self.batches = self.refused = self.judged = 0
        self.seconds = 0.0

    def read(self, text: str) -> asyncio.Future[Understood] | None:
        """Begin at once with a question's vector; None when too many wait, or no more are taken."""
        if self._closed or len(self._waiting) >= MAX_WAITING:
            self.refused += 1
            return None
        future: asyncio.Future[Understood] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if not self._runs:
            self._run()
        return future

    def _run(self) -> None:
        """Start on what waits."""
        batch = [pair for pair in self._waiting[:MAX_BATCH] if not pair[1].done()]
        del self._waiting[:MAX_BATCH]
        self._runs = bool(batch or self._waiting)
        if not self._runs:
            return
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, _embed, self._embedder, [text for text, _ in batch])
        work.add_done_callback(self._finisher([future for _, future in batch]))

    def _finisher(
        self, futures: list[asyncio.Future[Understood]]
    ) -> Callable[[asyncio.Future[list[Understood]]], None]:
        begun_ns = self._clock.now_ns()

        def finish(work: asyncio.Future[list[Understood]]) -> None:
            error = asyncio.CancelledError() if work.cancelled() else work.exception()
            for place, future in enumerate(futures):
                if future.done():
                    continue
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(work.result()[place])
            self.embedded += len(futures)
            self.batches += 1
            self.seconds += (self._clock.now_ns() - begun_ns) / NS_PER_S
            self._run()

        return finish

    async def sureness(self, asked: str, known: Sequence[str], twice: bool) -> list[float]:
        """How sure the judge is that a question has the answer of each of some others, read in both orders or one."""
        judge = self.judge
        assert judge is not None, "somebody judges"
        if self._closed:
            return [0.0] * len(known)
        self.judged += len(known)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: [judge.same(asked, each, twice) for each in known])

    def run(self, work: Callable[[], Callable[[], None]]) -> None:
        """Other work of the cache, on a thread of its own that gives way too; what it returns is called on the loop."""

        def finish(done: asyncio.Future[Callable[[], None]]) -> None:
            if not done.cancelled():
                done.result()()

        asyncio.get_running_loop().run_in_executor(self._upkeep, work).add_done_callback(finish)

    def close(self) -> None:
        """Stop after what runs."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._upkeep.shutdown(wait=False, cancel_futures=True)


def _embed(embedder: Embedder, texts: list[str]) -> list[Understood]:
    """Lengths and vectors; what the gate sees of the questions is known afterwards, for the loop has no time for it."""
    found = [embedder.understand(text) for text in texts]
    for text, each in zip(texts, found, strict=True):
        if each.vector is not None:
            read(text)
    return found


def _give_way() -> None:
    """Tokens come before the cache: on Linux a thread has a niceness of its own."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
