"""What may be done again after a failure, how often, and as what: a retry or a continuation."""

from __future__ import annotations

from dataclasses import replace

from services.core.actions import CancelRemote, RequestOutput
from services.core.request import FinishReason, Request, WorkerRef
from services.kvcache.block import extend_block_hashes
from services.router.config import RouterConfig
from services.router.running import Running

REFUSALS = frozenset({"OVERLOADED", "DRAINING", "WRONG_ROLE", "SUBMIT_FAILED"})
"""A worker did not take the request: another one may, the same one is not asked again."""

FAILURES = frozenset({"KV_TRANSFER_FAILED", "IMAGES_NEEDED"})
"""The request ran and something around it broke: its workers are tried again only when there are no others.

A failed step is not among them: the request itself may be what broke it, and would break the next worker's too."""


def may_move(output: RequestOutput) -> bool:
    """Whether a worker's bad end is worth another attempt."""
    return output.finish is FinishReason.ERROR and output.reason in REFUSALS | FAILURES


def count_move(running: Running, reason: str, config: RouterConfig) -> str | None:
    """Count one more attempt; returns its label for the counters, None when the limit is reached.

    Before the first token a move is a retry; after it, a continuation: the tokens that the client has are computed
    again as a prompt, never sampled again.
    """
    running.why = reason
    if running.tokens:
        running.continuations += 1
        return f"continued/{reason}" if running.continuations <= config.max_continuations else None
    running.retries += 1
    return f"retried/{reason}" if running.retries <= config.max_retries else None


def next_attempt(running: Running, attempt: int, block_size: int) -> Request:
    """The request as it is dispatched next: the client's tokens are known, and their blocks can be found by hash."""
    request = running.request
    resume = tuple(running.tokens)
    hashes = request.block_hashes
    if hashes or request.hash_root:
        hashes = extend_block_hashes(request.hash_root, hashes, request.prompt + resume, block_size)
    return replace(request, attempt=attempt, resume=resume, block_hashes=hashes, handoff_to=None, shards=())


def cancel_remote(
    workers: list[WorkerRef], request: Request, reason: str, finish: FinishReason = FinishReason.CANCELLED
) -> list[CancelRemote]:
    """End a request's attempts up to the present one on some workers."""
    return [CancelRemote(worker, request.request_id, finish, reason, request.attempt) for worker in workers]


def failure(request: Request, reason: str, message: str) -> RequestOutput:
    """The end of an attempt that no worker could tell."""
    return RequestOutput(request.request_id, request.attempt, 0, (), FinishReason.ERROR, reason, message)
