"""Images are encoded once, shards leave when all of theirs are here, and nothing is held for those that are over."""

import random

import pytest

from services.core.actions import Action, Emit, SendPeer, Submit, Tick
from services.core.batch import ScheduledBatch, StepOutput
from services.core.clock import NS_PER_S
from services.core.peer import Offer
from services.core.request import Image, Request, Shard, WorkerRef
from services.encode.config import EncodeConfig
from services.encode.stage import EncodeStage
from services.kvcache.block_manager import BlockManager
from services.kvcache.config import TransferConfig
from services.kvcache.transfer import Transfers
from tests.factories import make_request

ME, PREFILL = WorkerRef("encode-0", 1), WorkerRef("prefill-0", 2)
BLOCK = 4


def image(number: int, tokens: int = 100) -> Image:
    return Image(bytes([number]), tokens)


def request(name: str, *images: Image, first: int = 0, attempt: int = 1) -> Request:
    before = tuple(image(200 + place) for place in range(first))
    shard = Shard(ME, first, len(images))
    return make_request(name, (), attempt=attempt, images=before + images, shards=(shard,), prefill_on=PREFILL)


class Bench:
    """A stage with its pool and its transfers."""

    def __init__(self, blocks: int = 100, **config: int) -> None:
        self.blocks = BlockManager(blocks, BLOCK, 0.0, True)
        self.transfers = Transfers(ME, self.blocks, TransferConfig(), "here:1")
        self.stage = EncodeStage(EncodeConfig(**{"tokens_per_block": 50, **config}), self.blocks, self.transfers, ME)
        self.steps = 0

    def submit(self, request: Request) -> list[Action]:
        return self.stage.handle(0, Submit("door", request))

    def step(self) -> ScheduledBatch | None:
        self.steps += 1
        return self.stage.schedule(self.steps)

    def done(self, error: str | None = None) -> list[Action]:
        actions = self.stage.complete(0, StepOutput(self.steps, (), error=error))
        self.check()
        return actions

    def check(self) -> None:
        self.stage.check()
        self.blocks.check(self.stage.owners() + self.transfers.owners())


def digests(batch: ScheduledBatch | None) -> list[int]:
    return [] if batch is None else [row.digest[0] for row in batch.images]


def offers(actions: list[Action]) -> list[Offer]:
    return [each.body for each in actions if isinstance(each, SendPeer) and isinstance(each.body, Offer)]


def test_images_share_steps_in_order_and_a_large_one_goes_alone() -> None:
    bench = Bench(max_batch_images=3, max_batch_tokens=250)
    assert bench.submit(request("a", image(1))) == []
    bench.submit(request("b", image(2), image(3), image(4)))
    bench.submit(request("c", image(5, 900)))
    assert bench.stage.queued_tokens == 100 + 300 + 900
    assert digests(bench.step()) == [1, 2]
    assert [offer.request.request_id for offer in offers(bench.done())] == ["a"]
    assert digests(bench.step()) == [3, 4]
    (offer,) = offers(bench.done())
    assert (offer.transfer_id, offer.num_tokens) == ("b/1/images-0", 3 * 2 * BLOCK), "two blocks an image"
    assert digests(bench.step()) == [5]


def test_an_offer_tells_which_images_come_and_nothing_that_could_be_found_as_kv() -> None:
    bench = Bench()
    whole = make_request("a", tuple(range(8)), images=(image(1), image(2), image(3)), prefill_on=PREFILL)
    shards = (Shard(WorkerRef("encode-1", 5), 0, 1), Shard(ME, 1, 2))
    bench.submit(Request(**{**{name: getattr(whole, name) for name in whole.__slots__}, "shards": shards}))
    assert digests(bench.step()) == [2, 3]
    (offer,) = offers(bench.done())
    assert offer.transfer_id == "a/1/images-1" and offer.request.shards == (shards[1],)
    assert not offer.request.block_hashes and not offer.request.prompt


def test_an_image_that_came_before_is_not_encoded_again() -> None:
    bench = Bench(blocks=4, max_batch_images=1)
    bench.submit(request("a", image(1)))
    assert digests(bench.step()) == [1]
    bench.submit(request("b", image(1), image(1)))
    assert len(offers(bench.done())) == 2, "it was under way"
    assert bench.step() is None
    assert len(offers(bench.submit(request("c", image(1), first=4)))) == 1
    for name in "abc":
        assert bench.transfers.cancel(0, name, "over") and bench.stage.drop(name)
    assert bench.blocks.used == 0 and bench.blocks.cached == 2, "it is kept like a cached prefix"
    bench.submit(request("d", image(2), image(3)))
    for _ in range(2):
        bench.step()
        bench.done()
    bench.submit(request("e", image(1)))
    assert bench.stage.queued_tokens == 100, "others needed its room"


def test_a_failed_step_fails_those_who_want_its_images_alone() -> None:
    bench = Bench(max_batch_images=1)
    bench.submit(request("a", image(1), image(2)))
    bench.submit(request("b", image(3)))
    bench.step()
    (emit,) = bench.done(error="out of memory")
    assert isinstance(emit, Emit) and emit.outputs[0].reason == "ENCODE_FAILED"
    assert digests(bench.step()) == [3]
    assert [offer.request.request_id for offer in offers(bench.done())] == ["b"]


def test_images_wait_for_room_and_kept_ones_go_first() -> None:
    bench = Bench(blocks=4)
    bench.submit(request("a", image(1), image(2)))
    assert digests(bench.step()) == [1, 2]
    bench.done()
    bench.submit(request("b", image(3)))
    assert bench.step() is None, "both embeddings are being handed off"
    bench.transfers.cancel(0, "a", "over")
    bench.stage.drop("a")
    assert digests(bench.step()) == [3]
    (emit,) = bench.submit(request("c", *[image(number) for number in range(10, 13)]))
    assert isinstance(emit, Emit) and emit.outputs[0].reason == "CONTEXT_LENGTH_EXCEEDED"


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_events_leaves_nothing_behind(seed: int) -> None:
    chance = random.Random(seed)
    bench = Bench(blocks=12, max_batch_images=2)
    live: list[str] = []
    for number in range(60):
        if chance.random() < 0.5:
            name = f"r{number}"
            bench.submit(request(name, *[image(chance.randrange(6)) for _ in range(chance.randint(1, 3))]))
            live.append(name)
        elif bench.stage.step_running:
            bench.done("broken" if chance.random() < 0.2 else None)
        elif chance.random() < 0.5 and live:
            name = live.pop(chance.randrange(len(live)))
            bench.transfers.cancel(0, name, "over")
            bench.stage.drop(name)
        else:
            bench.step()
        bench.check()
    if bench.stage.step_running:
        bench.done()
    for name in live:
        bench.transfers.cancel(0, name, "over")
        bench.stage.drop(name)
    bench.check()
    assert not bench.stage.held() and not bench.stage.queued_tokens
    assert bench.blocks.used == 0


def test_a_silent_receiver_gives_the_embeddings_back_when_the_lease_ends() -> None:
    bench = Bench()
    bench.submit(request("a", image(1)))
    bench.step()
    bench.done()
    assert bench.transfers.num_leases == 1 and bench.blocks.used == 2
    _, notices = bench.transfers.handle(60 * NS_PER_S, Tick("clock"))
    (failed,) = notices
    (emit,) = bench.stage.handle(0, failed)
    assert isinstance(emit, Emit) and emit.outputs[0].reason == "KV_TRANSFER_FAILED"
    assert bench.blocks.used == 0 and not bench.stage.held()
