"""Computes some questions that the cache answered by meaning, too, in the background, and compares the answers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from services.core.clock import NS_PER_S, Clock
from services.core.errors import TriptychError
from services.core.request import FinishReason, Request
from services.core.seeds import RandomStream, new_request_id
from services.frontdoor.client_stream import ClientStream
from services.frontdoor.response_cache import ResponseCache
from services.semcache.shadow import RIGHT, WRONG, same_answer

logger = logging.getLogger(__name__)

PRIORITY = -100
"""Below every client's: it is shed first."""
Spawn = Callable[[Coroutine[Any, Any, None]], None]


class ShadowChecks:
    """Second opinions on semantic hits. No client waits for them, and few run at once.

    Args:
        submit: takes (request, received, deadline) and gives its stream; its requests are not told of in metrics.
        spawn: runs what takes time beside the caller.
        draws: which hits are computed.

    Attributes:
        verdicts: by (right, wrong, failed or skipped because enough run, category).
    """

    def __init__(
        self,
        cache: ResponseCache,
        submit: Callable[[Request, int, int], ClientStream],
        spawn: Spawn,
        clock: Clock,
        draws: RandomStream,
    ) -> None:
        self._cache = cache
        self._config = cache.config.shadow
        self._submit = submit
        self._spawn = spawn
        self._clock = clock
        self._draws = draws
        self._running = 0
        self.verdicts: Counter[tuple[str, str]] = Counter()

    def hit(self, request: Request, given: tuple[int, ...], category: str) -> None:
        """A semantic hit was given; perhaps it is computed as well."""
        if self._draws.random() >= self._config.share:
            return
        if self._running >= self._config.max_running:
            self.verdicts["skipped", category] += 1
        else:
            self._running += 1
            self._spawn(self._check(request, given, category))

    def came_too_late(self, given: tuple[int, ...], computed: tuple[int, ...], category: str) -> None:
        """The model was faster than the cache: both answers are there, and comparing them costs next to nothing."""
        if self._config.share > 0:
            self._spawn(self._judge(given, computed, category))

    async def _check(self, request: Request, given: tuple[int, ...], category: str) -> None:
        try:
            computed = await self._compute(request)
        except TriptychError as error:
            logger.info("a shadow check ended: %s", error.reason)
            computed = None
        finally:
            self._running -= 1
        if computed is None:
            self.verdicts["failed", category] += 1
        else:
            await self._judge(given, computed, category)

    async def _compute(self, request: Request) -> tuple[int, ...] | None:
        """What the model answers; None where it does not end by itself."""
        now = self._clock.now_ns()
        shadow = replace(
            request,
            request_id=f"shadow-{new_request_id()}",
            priority=PRIORITY,
            ttft_slo_ms=None,
            tpot_slo_ms=None,
            deadline_unix_ms=self._clock.unix_ms() + int(1e3 * self._config.timeout_s),
        )
        stream = self._submit(shadow, now, now + int(self._config.timeout_s * NS_PER_S))
        tokens: list[int] = []
        finish = None
        try:
            while finish is None:
                chunk = await stream.next()
                tokens += chunk.token_ids
                finish = chunk.finish
        finally:
            stream.close()
        return tuple(tokens) if finish is FinishReason.STOP else None

    async def _judge(self, given: tuple[int, ...], computed: tuple[int, ...], category: str) -> None:
        try:
            texts = self._cache.text(given), self._cache.text(computed)
            alike = 1.0 if texts[0] == texts[1] else await self._cache.similarity(*texts)
        except Exception:
            logger.exception("a shadow check failed")
            alike = None
        if alike is None:
            self.verdicts["failed", category] += 1
        else:
            right = same_answer(*texts, alike, self._config)
            self.verdicts[RIGHT if right else WRONG, category] += 1
