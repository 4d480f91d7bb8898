"""Images are encoded once, shards are ready once in any order, and nothing is held for those that are over."""

import random

import pytest

from services.encode.batcher import Image
from services.encode.config import EncodeConfig
from services.encode.stage import EncodeAction, EncodeStage, EncodeStep, Shard, ShardFailed, ShardReady


def image(number: int, tokens: int = 100) -> Image:
    return Image(bytes([number]), tokens)


def shard(name: str, *numbers: int, first: int = 0, attempt: int = 1) -> Shard:
    return Shard(name, attempt, first, tuple(image(number) for number in numbers))


def steps(actions: list[EncodeAction]) -> list[list[int]]:
    return [[each.digest[0] for each in action.images] for action in actions if isinstance(action, EncodeStep)]


def test_images_share_steps_in_order_and_a_large_one_goes_alone() -> None:
    stage = EncodeStage(EncodeConfig(max_batch_images=3, max_batch_tokens=250))
    assert steps(stage.submit(shard("a", 1))) == [[1]]
    assert stage.submit(shard("b", 2, 3, 4)) == []
    assert stage.submit(Shard("c", 1, 0, (image(5, 900),))) == []
    assert stage.queued_tokens == 100 + 300 + 900
    actions = stage.done(1)
    assert actions[0] == ShardReady(shard("a", 1)) and steps(actions) == [[2, 3]]
    assert steps(stage.done(2)) == [[4]]
    assert steps(stage.done(3)) == [[5]]
    assert stage.done(4) == [ShardReady(Shard("c", 1, 0, (image(5, 900),)))]


def test_an_image_that_came_before_is_not_encoded_again() -> None:
    stage = EncodeStage(EncodeConfig(max_batch_images=1, cache_tokens=100))
    stage.submit(shard("a", 1))
    assert stage.submit(shard("b", 1, 1)) == [], "it is under way"
    assert stage.done(1) == [ShardReady(shard("a", 1)), ShardReady(shard("b", 1, 1))]
    assert stage.submit(shard("a", 1)) == [], "said again"
    assert stage.submit(shard("c", 1, first=4)) == [ShardReady(shard("c", 1, first=4))]
    for name in "abc":
        stage.release(name, 1)
    assert stage.cache.used_tokens == 100
    stage.submit(shard("d", 2))
    stage.done(2)
    stage.release("d", 1)
    assert stage.cache.evictions == 1 and bytes([1]) not in stage.cache


def test_a_failed_step_fails_those_who_want_its_images_alone() -> None:
    stage = EncodeStage(EncodeConfig(max_batch_images=1))
    stage.submit(shard("a", 1, 2))
    stage.submit(shard("b", 3))
    actions = stage.done(1, error="out of memory")
    assert actions == [ShardFailed(shard("a", 1, 2), "out of memory"), EncodeStep(2, (image(3),))]
    assert stage.done(2) == [ShardReady(shard("b", 3))]
    stage.check()


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_shards_ends_and_cancels_leaves_nothing(seed: int) -> None:
    chance = random.Random(seed)
    stage = EncodeStage(EncodeConfig(max_batch_images=chance.randint(1, 4), cache_tokens=chance.choice([0, 300, 5000])))
    running: list[EncodeStep] = []
    asked: dict[tuple[str, int], int] = {}
    ended: list[tuple[str, int]] = []
    cancelled: set[str] = set()

    def take(actions: list[EncodeAction]) -> None:
        for action in actions:
            if isinstance(action, EncodeStep):
                running.append(action)
            else:
                ended.append((action.shard.request_id, action.shard.first_image))
        assert len(running) <= 1
        stage.check()

    for number in range(60):
        if running and chance.random() < 0.6:
            take(stage.done(running.pop().step_id, error="lost" if chance.random() < 0.1 else ""))
        name = f"r{number // 2}"
        numbers = [chance.randrange(12) for _ in range(chance.randint(1, 4))]
        asked[name, number % 2 * 4] = len(numbers)
        take(stage.submit(shard(name, *numbers, first=number % 2 * 4)))
        if chance.random() < 0.1:
            cancelled.add(name)
            take(stage.release(name, 1))
    while running:
        take(stage.done(running.pop().step_id))
    assert len(ended) == len(set(ended)) and set(ended) <= asked.keys()
    assert {name for name, _ in asked.keys() - set(ended)} <= cancelled
    for name, _ in asked:
        take(stage.release(name, 1))
    assert stage.queued_tokens == 0 and stage.cache.num_pins == 0
    assert stage.state() == {**stage.state(), "waiting": [], "ready": [], "running": None, "queue": []}  # type: ignore[dict-item]
