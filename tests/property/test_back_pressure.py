"""Two workers with too little memory: hand-offs wait, prompts of the decode worker pass in turn, all of it ends."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.core.actions import Submit
from services.core.request import Discipline, Request, WorkerRef
from services.scheduling.waiting import ORDERS
from tests.factories import make_core, make_request
from tests.property.test_handoff import assert_clean, expected, outputs_of
from tests.world import MS, World

P, D = WorkerRef("prefill-0", 1), WorkerRef("decode-0", 2)
S = 1000 * MS
LIMIT = 2


class Watched(World):
    """A world that notes which kinds of back-pressure were seen in the decode worker's reports."""

    def __init__(self, delay: object) -> None:
        super().__init__(delay)  # type: ignore[arg-type]
        self.pressures: set[str] = set()

    def feed(self, ref: WorkerRef, event: object) -> None:
        super().feed(ref, event)  # type: ignore[arg-type]
        if ref == D:
            load = self.cores[D].load()
            assert bool(load.back_pressure) == bool(load.waiting_offers)
            self.pressures.add(load.back_pressure)


def build(delay: object, blocks_p: int, blocks_d: int, **scheduler: object) -> Watched:
    world = Watched(delay)
    fields = {"max_batch_tokens": 8, "prefill_tile_tokens": 4, "max_preemptions": LIMIT, **scheduler}
    world.add(P, make_core(P, ("prefill",), blocks_p, scheduler=fields))
    world.add(D, make_core(D, ("decode",), blocks_d, scheduler=fields))
    return world


@given(st.data(), st.sampled_from(ORDERS.names()))
def test_handoffs_and_local_prompts_share_a_small_pool_and_all_complete(data: st.DataObject, order: str) -> None:
    blocks_p, blocks_d = data.draw(st.integers(6, 16)), data.draw(st.integers(6, 16))
    sequences = data.draw(st.integers(1, 4))
    world = build(lambda: data.draw(st.integers(0, 15)) * MS, blocks_p, blocks_d, order=order, max_sequences=sequences)
    requests: list[Request] = []
    for number in range(data.draw(st.integers(1, 8))):
        local = data.draw(st.booleans())
        size = data.draw(st.integers(1, 4 * min(blocks_p, blocks_d) - 1))
        request = make_request(
            f"r{number}",
            tuple(data.draw(st.integers(0, 1)) for _ in range(size)),
            max_tokens=data.draw(st.integers(1, min(12, 4 * blocks_d - size))),
            handoff_to=None if local else D,
            discipline=data.draw(st.sampled_from(list(Discipline))),
            priority=data.draw(st.integers(-1, 1)),
        )
        requests.append(request)
        world.feed(D if local else P, Submit("door", request))
        world.run(world.now + data.draw(st.integers(0, 40)) * MS)
    world.run(world.now + 120 * S)
    assert_clean(world)
    for request in requests:
        got = [token for output in outputs_of(world, request) for token in output.token_ids]
        assert got == expected(request), request.request_id


def test_a_full_decode_worker_holds_back_prefill_which_holds_back_its_queue() -> None:
    world = build(lambda: MS, blocks_p=12, blocks_d=8, max_batch_tokens=64)
    long = make_request("long", tuple(range(8)), max_tokens=24, handoff_to=D)
    world.feed(P, Submit("door", long))
    for number in range(6):
        world.feed(P, Submit("door", make_request(f"r{number}", (number,) * 24, max_tokens=2, handoff_to=D)))
    world.run(20 * MS)
    decode, prefill = world.cores[D].load(), world.cores[P].load()
    assert (decode.back_pressure, decode.waiting_offers) == ("blocks", 2)
    assert prefill.kv_blocks_used == 12, "its memory is the queue"
    assert prefill.queued_prefill_tokens == 4 * 24, "and what does not fit waits without blocks"
    assert dict(decode.counters)["held_back/blocks"] >= 1
    world.run(60 * S)
    assert_clean(world)
    assert sum(output.finish is not None for _, output in world.outputs) == 7


def test_early_grants_use_blocks_but_do_not_stop_prompts_that_are_done() -> None:
    world = build(lambda: MS, blocks_p=40, blocks_d=20)
    early = make_request("early", tuple(range(48)), max_tokens=2, handoff_to=D, discipline=Discipline.EARLY)
    second = replace(early, request_id="second", prompt=tuple(range(100, 148)), block_hashes=())
    world.feed(P, Submit("door", early))
    world.run(3 * MS)
    assert world.cores[D].load().kv_blocks_used == 12, "reserved before the prompt is computed"
    world.feed(P, Submit("door", second))
    world.feed(P, Submit("door", make_request("late", (7, 8, 9), max_tokens=2, handoff_to=D)))
    world.run(60 * S)
    assert_clean(world)
    assert "early_share" in world.pressures
    assert sum(output.finish is not None for _, output in world.outputs) == 3


def test_a_prompt_of_3000_tokens_at_full_pools_waits_or_is_preempted_and_completes() -> None:
    """192 blocks hold it and its output exactly; both pools are full of short requests when it comes, and stay so."""
    for discipline in Discipline:
        world = Watched(lambda: MS)
        for ref, role in ((P, "prefill"), (D, "decode")):
            cache = {"block_size_tokens": 16, "watermark": 0.0}
            fields = {"scheduler": {"max_preemptions": LIMIT}, "decode": {"max_waiting_block_share": 1.0}}
            world.add(ref, make_core(ref, (role,), 192, cache=cache, **fields))
        requests = []
        for number in range(60):
            short = make_request(f"s{number}", (number,) * 70, block_size=16, max_tokens=120, handoff_to=D)
            requests.append(short)
            world.feed(P, Submit("door", short))
            if number == 30:
                big = make_request(
                    "big", tuple(range(3000)), block_size=16, max_tokens=64, handoff_to=D, discipline=discipline
                )
                requests.append(big)
                world.feed(P, Submit("door", big))
            world.run(world.now + 10 * MS)
        assert world.cores[D].load().kv_blocks_used > 150
        world.run(world.now + 60 * S)
        assert_clean(world)
        for request in requests:
            assert [t for output in outputs_of(world, request) for t in output.token_ids] == expected(request)
        assert dict(world.cores[D].load().counters)["preempted/no_blocks"] > 0


def test_an_offer_that_could_never_fit_is_refused_with_its_reason() -> None:
    world = build(lambda: MS, blocks_p=40, blocks_d=4)
    world.feed(P, Submit("door", make_request("big", tuple(range(20)), handoff_to=D)))
    world.run(S)
    assert [output.reason for _, output in world.outputs if output.finish] == ["KV_TRANSFER_FAILED"]
    assert "context_length_exceeded" in world.outputs[-1][1].message
    assert dict(world.cores[P].load().counters) == {"ended/KV_TRANSFER_FAILED": 1}
    assert_clean(world)
