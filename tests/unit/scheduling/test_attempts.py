"""A request is dispatched again: earlier attempts end, later ones go on from the tokens that the client has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.core.actions import Cancel, Submit
from services.core.request import Discipline, FinishReason, Request, WorkerRef
from services.kvcache.block import prompt_block_hashes
from tests.factories import BLOCK_SIZE, ROOT, make_core, make_request
from tests.world import MS, World, token_at

P0, P1, D = WorkerRef("prefill-0", 1), WorkerRef("prefill-1", 2), WorkerRef("decode-0", 3)
PROMPT = tuple(range(10))
MAX_TOKENS = 9


def world_of_three() -> World:
    world = World(lambda: MS)
    for ref in (P0, P1, D):
        world.add(ref, make_core(ref, (ref.worker_id.split("-")[0],), scheduler={"max_batch_tokens": 8}))
    return world


def again(request: Request, num_delivered: int, attempt: int = 2) -> Request:
    """The next attempt of a request whose client has its first tokens."""
    resume = tuple(token_at(request.request_id, len(PROMPT) + index) for index in range(num_delivered))
    hashes = prompt_block_hashes(ROOT, request.prompt + resume, BLOCK_SIZE)
    return replace(request, attempt=attempt, resume=resume, block_hashes=hashes)


def outputs(world: World, attempt: int) -> list[tuple[int, int]]:
    return [
        (output.index + place, token)
        for _, output in world.outputs
        if output.attempt == attempt
        for place, token in enumerate(output.token_ids)
    ]


def assert_clean(world: World) -> None:
    for core in world.cores.values():
        load = core.load()
        assert (load.kv_blocks_used, load.leases, load.transfers, load.tasks) == (0, 0, 0, 0), load


@pytest.mark.parametrize("discipline", Discipline)
@pytest.mark.parametrize("num_delivered", [0, 1, 4, MAX_TOKENS - 1])
def test_a_continued_request_goes_on_at_the_next_index(discipline: Discipline, num_delivered: int) -> None:
    world = world_of_three()
    request = make_request("r", PROMPT, max_tokens=MAX_TOKENS, handoff_to=D, discipline=discipline)
    world.feed(P0, Submit("door", again(request, num_delivered)))
    world.run(1000 * MS)
    expected = [(index, token_at("r", len(PROMPT) + index)) for index in range(num_delivered, MAX_TOKENS)]
    assert outputs(world, 2) == expected
    assert [out.finish for _, out in world.outputs if out.finish] == [FinishReason.LENGTH]
    assert_clean(world)


def test_a_later_attempt_ends_an_earlier_one_on_every_worker_it_reaches() -> None:
    for delay in range(0, 60, 3):
        world = world_of_three()
        request = make_request("r", PROMPT, max_tokens=MAX_TOKENS, handoff_to=D)
        world.feed(P0, Submit("door", request))
        world.run(delay * MS)
        world.feed(P0, Submit("door", again(request, 1)))
        world.run(world.now + 1000 * MS)
        assert [index for index, _ in outputs(world, 2)] == list(range(1, MAX_TOKENS))
        assert_clean(world)


def test_an_offer_of_an_earlier_attempt_is_refused() -> None:
    world = world_of_three()
    request = make_request("r", PROMPT, max_tokens=40, handoff_to=D)
    world.feed(P1, Submit("door", again(request, 0)))
    world.run(10 * MS)
    world.feed(P0, Submit("door", request))
    world.run(world.now + 1000 * MS)
    assert [index for index, _ in outputs(world, 2)] == list(range(40)), "the later attempt is not disturbed"
    assert [index for index, _ in outputs(world, 1) if index > 0] == []
    assert_clean(world)


def test_a_cancel_spares_later_attempts_and_is_remembered_for_late_ones() -> None:
    world = world_of_three()
    request = make_request("r", PROMPT, max_tokens=MAX_TOKENS, handoff_to=D)
    world.feed(P0, Submit("door", again(request, 0)))
    world.feed(P0, Cancel("door", "r", FinishReason.CANCELLED, "moved", 1))
    world.feed(P1, Cancel("door", "r", FinishReason.CANCELLED, "moved", 1))
    world.feed(P1, Submit("door", request))
    world.run(1000 * MS)
    assert [index for index, _ in outputs(world, 2)] == list(range(MAX_TOKENS))
    assert outputs(world, 1) == []
    assert_clean(world)
