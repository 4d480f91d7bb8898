"""How much of what the workers can serve is asked of them, as the cache's load policy takes it."""

from __future__ import annotations

from collections.abc import Iterable

from services.router.view import WorkerView
from services.semcache.config import LoadConfig


def cluster_load(workers: Iterable[WorkerView], waiting: bool, config: LoadConfig) -> float:
    """The fullest of three: prompts that wait, requests that decode, KV memory; 1 is as much as can be served.

    Args:
        workers: all that are known; those that drain take nothing and count for nothing.
        waiting: whether requests wait at the front door because every worker has enough to do, which is load enough.
    """
    takes = [each for each in workers if not each.report.draining]
    prefill = [each for each in takes if "prefill" in each.report.roles]
    decode = [each for each in takes if "decode" in each.report.roles]
    queued = sum(each.report.queued_prefill_tokens + each.reserved_prompt_tokens for each in prefill)
    running = sum(each.report.running_decodes + each.reserved_decodes for each in decode)
    used = sum(each.report.kv_blocks_used for each in decode)
    total = sum(each.report.kv_blocks_total for each in decode)
    return max(
        queued / (config.full_queue_tokens * max(len(prefill), 1)),
        running / (config.full_decodes * max(len(decode), 1)),
        used / max(total, 1),
        1.0 if waiting else 0.0,
    )
