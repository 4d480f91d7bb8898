"""Requests that wait for what the cache has: they are placed when it has nothing."""

from __future__ import annotations

from services.core.actions import Action, Emit, RequestOutput, Submit
from services.core.lookup import CacheResult, LookupCache, StoreCache
from services.core.request import FinishReason
from services.router.running import Running


class Looking:
    """Requests between their arrival and the cache's answer, in order of arrival."""

    def __init__(self) -> None:
        self._submits: dict[str, Submit] = {}

    def start(self, event: Submit) -> list[Action]:
        """Ask the cache."""
        self._submits[event.request.request_id] = event
        return [LookupCache(event.request.request_id)]

    def take(self, request_id: str) -> Submit | None:
        """The request, which waits no longer; None when it does not wait."""
        return self._submits.pop(request_id, None)

    def state(self) -> object:
        """Who waits, and until when."""
        return [[name, each.deadline_ns] for name, each in self._submits.items()]


def replay(result: CacheResult, attempt: int) -> list[Action]:
    """A kept output as if a worker had sent it at once."""
    output = RequestOutput(result.request_id, attempt, 0, result.token_ids, FinishReason.STOP)
    return [Emit(result.request_id, (output,))]


def offer(running: Running) -> list[Action]:
    """Let the cache keep a complete output, where it was asked for that request."""
    if not running.cached or running.end is None or running.end.finish is None:
        return []
    return [StoreCache(running.request.request_id, tuple(running.tokens), running.end.finish)]
