"""Who loses its KV blocks when a running request needs one and none is free; it computes its tokens again later."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.scheduling.waiting import RequestState

NO_BLOCKS = "no_blocks"
"""Reason label: a decode needed a block and the pool was full."""


def choose_victim(running: Sequence[RequestState], taken: Collection[str], max_preemptions: int) -> RequestState | None:
    """The last request in order that may lose its blocks (Sarathi-Serve), or None.

    Args:
        running: requests with blocks, in the configured order.
        taken: ids of requests that have a row in the step that is being put together.
        max_preemptions: a request that was preempted this often is never chosen again.
    """
    for state in reversed(running):
        if not state.pinned and state.num_preemptions < max_preemptions and state.request.request_id not in taken:
            return state
    return None


def tokens_to_cover(state: RequestState, max_preemptions: int) -> int:
    """Tokens that a waiting request needs blocks for.

    All known ones; at the limit of preemptions its whole possible length, so that it never needs another block, is
    never in need of a victim, and no circle of requests can wait for each other.
    """
    if state.num_preemptions < max_preemptions:
        return len(state.tokens)
    return max(len(state.tokens), state.request.max_num_tokens)
