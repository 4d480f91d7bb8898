"""What the request flow asks of the cache, performed: equal requests at once, those of the same meaning meanwhile.

A request that equals one under way is told nothing before that one's answer is there, or its own patience is over:
until the flow hears of it, it is not placed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from services.core.clock import NS_PER_MS, NS_PER_S, Clock
from services.core.lookup import CacheResult, StoreCache
from services.core.request import FinishReason, Request
from services.core.seeds import stream as random_stream
from services.frontdoor.client_stream import ClientStream
from services.frontdoor.cluster_load import cluster_load
from services.frontdoor.response_cache import ResponseCache
from services.frontdoor.shadow import ShadowChecks
from services.router.flow import RequestFlow
from services.semcache.embedder import Understood
from services.semcache.flights import Flights, longest_wait_s, may_share
from services.semcache.gate import Asked

logger = logging.getLogger(__name__)

OBSERVE_EVERY_NS = 100 * NS_PER_MS
"""How often load may change the cache's thresholds."""


class Lookups:
    """The cache as the performer uses it; a failure of it is a miss.

    Args:
        cache: None: nothing is ever found.
        front_door: source of the results.
        spawn: runs what takes time beside the caller.
        feed: takes results.
        submit: takes requests of the cache's own, which no client waits for.

    Attributes:
        shadows: second opinions on semantic hits; None where they are off.
        shared: requests that waited for an equal one, by what came of it: answered, promoted to be computed because
            that one had no answer, missed because its answer was not for them, overdue, gone with their client.
    """

    def __init__(
        self,
        cache: ResponseCache | None,
        front_door: str,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        feed: Callable[[CacheResult], None],
        submit: Callable[[Request, int, int], ClientStream],
    ) -> None:
        self.cache = cache
        self._front_door = front_door
        self._clock = clock
        self._spawn = spawn
        self._feed = feed
        self._asked: dict[str, Asked] = {}
        self._reading: set[str] = set()
        self._early: dict[str, tuple[StoreCache, ClientStream]] = {}
        self._flights = Flights()
        self._late: dict[str, tuple[int, ...]] = {}  # answers by meaning that the model was faster than
        self.shadows: ShadowChecks | None = None
        if cache is not None and cache.config.shadow.share > 0:
            self.shadows = ShadowChecks(cache, submit, spawn, clock, random_stream(0, f"{front_door}/shadow"))
        self._observed_ns = -OBSERVE_EVERY_NS
        self._waiting: dict[str, tuple[ClientStream, asyncio.TimerHandle]] = {}
        self.shared: Counter[str] = Counter()

    def observe(self, flow: RequestFlow) -> None:
        """Workers reported: their load may act on the cache's thresholds."""
        now = self._clock.now_ns()
        if self.cache is not None and self.cache.config.load.enabled and now - self._observed_ns >= OBSERVE_EVERY_NS:
            self._observed_ns = now
            load = cluster_load(flow.view.workers.values(), flow.waits, self.cache.config.load)
            self.cache.cache.policies.observe_load(load)

    def expect(self, request_id: str, asked: Asked) -> None:
        """A request that the cache will be asked for."""
        self._asked[request_id] = asked

    def forget(self, request_id: str) -> None:
        """A request that is over; whoever waits for its answer waits for another's from the loop's next turn on."""
        self._asked.pop(request_id, None)
        self._late.pop(request_id, None)
        if request_id in self._waiting:
            self._waiting.pop(request_id)[1].cancel()
            self.shared["gone"] += 1
        if request_id not in self._early and (promoted := self._flights.leave(request_id)):
            asyncio.get_running_loop().call_soon(self._resume, promoted, "promoted")

    def look_up(self, request_id: str, stream: ClientStream | None, now: int) -> None:
        """Feed what the cache has at once; with `pending`, more may come later."""
        asked = self._asked.get(request_id)
        if self.cache is None or asked is None or stream is None:
            self._feed(CacheResult(self._front_door, request_id))
        elif may_share(asked, self.cache.config) and asked.key and self._flights.join(request_id, asked.key.exact):
            left_s = (stream.deadline_ns - now) / NS_PER_S
            wait_s = longest_wait_s(self.cache.config, left_s, stream.request.ttft_slo_ms)
            timer = asyncio.get_running_loop().call_later(wait_s, self._overdue, request_id)
            self._waiting[request_id] = stream, timer
        else:
            self._answer(request_id, stream, asked, now)

    def _overdue(self, request_id: str) -> None:
        self._flights.leave(request_id)
        self._resume([request_id], "overdue")

    def _resume(self, names: Sequence[str], otherwise: str) -> None:
        """Look again for requests that waited; those that find nothing are computed, counted as `otherwise`."""
        assert self.cache is not None, "somebody waited"
        for name in names:
            if name in self._waiting:  # its client did not leave since
                stream, timer = self._waiting.pop(name)
                timer.cancel()
                asked = self._asked[name] = self.cache.again(self._asked[name])
                found = self._answer(name, stream, asked, self._clock.now_ns())
                self.shared["answered" if found else otherwise] += 1

    def _answer(self, request_id: str, stream: ClientStream, asked: Asked, now: int) -> bool:
        """Feed what there is for a request; whether it is an answer."""
        assert self.cache is not None, "callers have looked"
        found = self._find(request_id, asked, now)
        reads = not found.token_ids and (asked.meaning is not None or self.cache.in_doubt(now, asked))
        if reads:
            found = CacheResult(self._front_door, request_id, pending=True)
        stream.found(found.tier, found.pending)
        self._feed(found)
        if reads:  # once the request is placed: its worker computes meanwhile, and both would want the interpreter
            self._spawn(self._look_for_meaning(request_id, stream, asked, self.cache.read(asked)))
        if found.token_ids:
            if self.shadows is not None and found.tier == "semantic":
                self.shadows.hit(stream.request, found.token_ids, asked.policy.category)
            self._answered(asked)
        return bool(found.token_ids)

    def _answered(self, asked: Asked) -> None:
        """There is an answer to a request: those that equal it need wait no longer."""
        if asked.key is not None:
            self._resume(self._flights.answered(asked.key.exact), "missed")

    async def _look_for_meaning(
        self, request_id: str, stream: ClientStream, asked: Asked, reading: asyncio.Future[Understood] | None
    ) -> None:
        assert self.cache is not None, "somebody looked"
        result = CacheResult(self._front_door, request_id)
        self._reading.add(request_id)
        try:
            complete = await self.cache.understand(self._clock.now_ns(), asked, reading)
            if self._asked.get(request_id) is asked:  # it is not over yet
                self._asked[request_id] = complete
                if complete.key is not None:
                    self._flights.also(request_id, complete.key.exact)
                result = self._find(request_id, complete, self._clock.now_ns(), asked)
        except Exception:
            logger.exception("the cache failed to understand request %s", request_id)
            self.cache.count_failure(asked)
            complete = replace(asked, meaning=None)
        self._reading.discard(request_id)
        if (early := self._early.pop(request_id, None)) is not None:
            self._keep(early[0], complete, early[1], self._clock.now_ns())
        stream.found(result.tier)
        self._feed(result)
        if result.token_ids:
            if self.shadows is not None and result.tier == "semantic":
                if request_id in self._asked:
                    self._late[request_id] = result.token_ids
                else:
                    self.shadows.hit(stream.request, result.token_ids, complete.policy.category)
            self._answered(complete)

    def _find(self, request_id: str, asked: Asked, now: int, before: Asked | None = None) -> CacheResult:
        assert self.cache is not None, "callers have looked"
        try:
            return self.cache.find(now, self._front_door, request_id, asked, before)
        except Exception:
            logger.exception("the cache failed to look for request %s", request_id)
            self.cache.count_failure(asked)
            return CacheResult(self._front_door, request_id)

    def keep(self, action: StoreCache, stream: ClientStream | None, now: int) -> None:
        """Keep an output; where the model was faster than the embedder, once the question's meaning is known."""
        asked = self._asked.get(action.request_id)
        if self.cache is None or asked is None or stream is None:  # the client went away first
            return
        if action.request_id in self._reading:
            self._early[action.request_id] = (action, stream)
        else:
            self._keep(action, asked, stream, now)

    def _keep(self, action: StoreCache, asked: Asked, stream: ClientStream, now: int) -> None:
        assert self.cache is not None, "callers have looked"
        late = self._late.pop(action.request_id, None)
        if late is not None and self.shadows is not None and action.finish is FinishReason.STOP:
            self.shadows.came_too_late(late, action.token_ids, asked.policy.category)
        try:
            refusal = self.cache.keep(now, asked, action, len(stream.request.prompt), stream.timeline.entries[0].at_ns)
        except Exception:
            logger.exception("the cache failed to keep request %s", action.request_id)
            self.cache.cache.skipped[refusal := "error"] += 1
        if refusal:
            self._resume(self._flights.leave(action.request_id, refused=True), "promoted")
        else:
            self._answered(asked)
