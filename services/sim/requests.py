"""From a row of a workload to the request that the front door would make of it."""

from __future__ import annotations

from services.core.clock import NS_PER_MS
from services.core.request import Image, Request, SamplingParams
from services.core.slo import NO_SLO, Slo
from services.core.workload import WorkloadRow
from services.kvcache.block import HASH_BYTES

PROMPT_ROOM = 1 << 16
_TOKENS: tuple[int, ...] = (0,) * PROMPT_ROOM


def make_request(
    number: int,
    row: WorkloadRow,
    block_size: int,
    deadline_ns: int,
    image_tokens: int | None = None,
    wishes: Slo = NO_SLO,
) -> Request:
    """A request of the row's lengths; it has the prefix hashes of the row's shared blocks, all ids are alike.

    Args:
        number: place in the workload; names the request.
        block_size: tokens in a KV block.
        deadline_ns: on the virtual clock.
        image_tokens: that each image adds to the prompt; None: images are left out.
        wishes: that its client tells the server, which places and admits the request by them.
    """
    images: tuple[Image, ...] = ()
    if image_tokens is not None:
        images = tuple(Image(f"{number}/{place}".encode(), image_tokens) for place in range(row.images))
    return Request(
        request_id=f"r{number}",
        attempt=1,
        prompt=tokens(max(1, row.input_tokens) + sum(image.tokens for image in images)),
        block_hashes=prefix_hashes(row, block_size),
        sampling=SamplingParams(max_tokens=max(1, row.output_tokens)),
        front_door="door",
        deadline_unix_ms=deadline_ns // NS_PER_MS,
        tenant=row.tenant,
        category=row.category,
        images=images,
        ttft_slo_ms=wishes.ttft_ms,
        tpot_slo_ms=wishes.tpot_ms,
    )


def tokens(count: int) -> tuple[int, ...]:
    """That many token ids."""
    return _TOKENS[:count] if count <= PROMPT_ROOM else (0,) * count


def prefix_hashes(row: WorkloadRow, block_size: int) -> tuple[bytes, ...]:
    """A hash for each KV block that lies in the row's shared prefix; equal prefixes have equal ones.

    An id of a prefix stands for its block and everything before it, so a KV block is told by the id at its end and its
    place. The last block of a prefix may be partial: it counts as far as the prompt goes.
    """
    size = row.prefix_block_tokens
    if not row.prefix or not size:
        return ()
    covered = min(len(row.prefix) * size, row.input_tokens) // block_size
    return tuple(
        ((row.prefix[((index + 1) * block_size - 1) // size] << 32) + index + 1).to_bytes(4 * HASH_BYTES, "little")
        for index in range(covered)
    )
