"""Requests that wait for what the cache has: they are placed when it has nothing."""

from __future__ import annotations

from collections.abc import Callable

from services.core.actions import Action, Emit, Reject, RequestOutput, Submit
from services.core.lookup import CacheResult, LookupCache, StoreCache
from services.core.request import FinishReason
from services.router.retry import cancel_remote
from services.router.running import Running


class Looking:
    """Requests between their arrival and the cache's answer, in order of arrival.

    Attributes:
        overtaken: requests whose dispatched work was cancelled because the cache answered first.
        late: answers of the cache that came after the first token.
    """

    def __init__(self) -> None:
        self._submits: dict[str, Submit] = {}
        self._rejected: dict[str, list[Action]] = {}
        self.overtaken = 0
        self.late = 0

    def start(self, event: Submit) -> list[Action]:
        """Ask the cache."""
        self._submits[event.request.request_id] = event
        return [LookupCache(event.request.request_id)]

    def take(self, request_id: str) -> Submit | None:
        """The request, which waits no longer; None when it does not wait."""
        return self._submits.pop(request_id, None)

    def forget(self, request_id: str) -> None:
        """The request is over."""
        self._submits.pop(request_id, None)
        self._rejected.pop(request_id, None)

    def placed(self, event: CacheResult, actions: list[Action]) -> list[Action]:
        """What follows where the cache had nothing yet: where no worker takes a request that it may still answer, the
        rejection waits for its second word."""
        if event.pending and any(isinstance(action, Reject) for action in actions):
            self._rejected[event.request_id] = actions
            return []
        return actions

    def answer(
        self, event: CacheResult, waits: bool, running: Running | None, next_attempt: Callable[[], int]
    ) -> list[Action]:
        """What the cache's word means for a request that waits for it, or that was placed before it came.

        Args:
            waits: nothing was done for the request so far.
            running: the request, where workers have it; they are told to stop, unless its client has tokens.
        """
        rejection = self._rejected.pop(event.request_id, None)
        if not event.token_ids:
            return rejection or []
        if not waits and rejection is None:
            if running is None:
                return []
            if running.tokens or running.early:
                self.late += 1
                return []
            self.overtaken += 1
        cancelled = [] if running is None else cancel_remote(running.workers, running.request, "cache_hit")
        return [*replay(event, next_attempt()), *cancelled]

    def state(self) -> object:
        """Who waits, until when or with what rejection, and what was counted."""
        return {
            "waiting": [[name, each.deadline_ns] for name, each in self._submits.items()],
            "rejected": list(self._rejected),
            "counts": [self.overtaken, self.late],
        }


def replay(result: CacheResult, attempt: int) -> list[Action]:
    """A kept output as if a worker had sent it at once."""
    output = RequestOutput(result.request_id, attempt, 0, result.token_ids, FinishReason.STOP)
    return [Emit(result.request_id, (output,))]


def offer(running: Running) -> list[Action]:
    """Let the cache keep a complete output, where it was asked for that request."""
    if not running.cached or running.end is None or running.end.finish is None:
        return []
    return [StoreCache(running.request.request_id, tuple(running.tokens), running.end.finish)]
