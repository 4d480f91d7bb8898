"""Which workers encode a request's images: a shard each, as even as can be (EPD, intra-request parallelism)."""

from __future__ import annotations

from dataclasses import replace

from services.core.actions import Dispatch
from services.core.request import Shard, WorkerRef
from services.router.profiles import NoCandidate, Profile
from services.router.running import Running
from services.router.view import ClusterView, ViewBuilder, WorkerView

MOST_SHARDS = 8
"""More workers for one request bring more hand-offs than time."""


def spread_images(profile: Profile, builder: ViewBuilder, now: int, running: Running) -> list[Dispatch]:
    """Note the shards in the request, and send it to the workers that encode for the one of the prompt."""
    view = builder.snapshot()
    assert running.prefill is not None
    prefill = view.workers[running.prefill.worker_id]
    shards = choose_encoders(profile, now, view, running, prefill)
    request = running.request = replace(running.request, shards=shards)
    running.encoders = [shard.worker for shard in shards if shard.worker != prefill.worker]
    # Tokens are of no use there.
    told = replace(request, prompt=(), resume=(), block_hashes=(), prefill_on=prefill.worker)
    for shard in shards:
        if shard.worker != prefill.worker:
            images = request.images[shard.first : shard.first + shard.count]
            builder.dispatched(shard.worker, sum(image.tokens for image in images))
    return [Dispatch(worker, told, "encode") for worker in running.encoders]


def choose_encoders(
    profile: Profile, now: int, view: ClusterView, running: Running, prefill: WorkerView
) -> tuple[Shard, ...]:
    """Shards in image order, on the encode workers with the least work; all on the prompt's own worker if it encodes.

    Workers that had a part in a failure of the request are taken only when there is no other.
    """
    request, away = running.request, running.refused + running.failed
    count = len(request.images)
    if "encode" in prefill.report.roles:
        return (Shard(prefill.worker, 0, count),)
    chosen: list[WorkerRef] = []
    while len(chosen) < min(count, MOST_SHARDS):
        found = profile.place(now, view, "encode", request, chosen, away)
        if isinstance(found, NoCandidate) or (chosen and found.worker in away):
            break
        chosen.append(found.worker)
    ends = [round(count * place / len(chosen)) for place in range(len(chosen) + 1)]
    return tuple(
        Shard(worker, first, end - first) for worker, first, end in zip(chosen, ends[:-1], ends[1:], strict=True)
    )
