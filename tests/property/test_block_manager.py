"""Random sequences of allocate, extend, publish, pin and free keep every block accounted for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.kvcache.block import prompt_block_hashes
from services.kvcache.block_manager import BlockManager

SIZE = 4
ROOT = b"\1" * 16


@given(
    st.integers(4, 24),
    st.lists(
        st.tuples(st.sampled_from(["allocate", "extend", "pin", "free"]), st.integers(0, 5), st.integers(1, 30)),
        max_size=60,
    ),
)
def test_every_reference_has_one_owner(pool: int, steps: list[tuple[str, int, int]]) -> None:
    manager = BlockManager(pool, SIZE, 0.0, prefix_caching=True)
    owners: list[list[int]] = []
    for what, pick, size in steps:
        owner = owners[pick % len(owners)] if owners else None
        if what == "allocate":
            # Few distinct prompts, so that prefixes are shared.
            tokens = [pick % 3] * size
            hashes = prompt_block_hashes(ROOT, tokens, SIZE)
            before = manager.free_blocks
            got = manager.allocate(size, hashes, size - 1)
            if got is None:
                assert manager.free_blocks == before, "a refused allocation changes nothing"
            else:
                assert len(got.blocks) == -(-size // SIZE)
                assert got.cached_blocks * SIZE <= size - 1, "the last token is always computed"
                manager.publish(got.blocks, hashes, size)
                owners.append(got.blocks)
        elif owner is not None and what == "extend":
            manager.extend(owner, len(owner) * SIZE + size)
        elif owner is not None and what == "pin":
            manager.pin(owner)
            owners.append(list(owner))
        elif owner is not None:
            owners.remove(owner)
            manager.free(owner)
        manager.check(owners)
    for owner in owners:
        manager.free(owner)
    manager.check([])
    assert manager.used == 0
    assert manager.free_blocks == pool


def test_cached_blocks_are_given_out_last_and_oldest_first() -> None:
    manager = BlockManager(4, SIZE, 0.0, prefix_caching=True)
    hashes = prompt_block_hashes(ROOT, range(8), SIZE)
    first = manager.allocate(8, hashes, 7)
    assert first is not None
    manager.publish(first.blocks, hashes, 8)
    manager.free(first.blocks)
    assert manager.cached == 2
    second = manager.allocate(2 * SIZE, (), 0)
    assert second is not None
    assert not set(second.blocks) & set(first.blocks), "blocks without a prefix go first"
    third = manager.allocate(SIZE, (), 0)
    assert third is not None
    assert third.blocks == [first.blocks[1]], "of a prefix, the tail is evicted first"
    assert manager.evictions == 1


def test_tenants_never_share_a_hash() -> None:
    from services.kvcache.block import NO_AUTH_SALT, root_hash, tenant_salt

    def chain(salt: bytes) -> tuple[bytes, ...]:
        root = root_hash(model_digest=b"m", dtype="float32", rope="r", block_size=SIZE, salt=salt)
        return prompt_block_hashes(root, range(32), SIZE)

    chains = [chain(NO_AUTH_SALT), chain(tenant_salt(b"secret", "a")), chain(tenant_salt(b"secret", "b"))]
    assert len({block for each in chains for block in each}) == 3 * 8


def test_the_watermark_keeps_room_for_running_requests() -> None:
    manager = BlockManager(10, SIZE, 0.2, prefix_caching=False)
    running = manager.allocate(SIZE, (), 0)
    assert running is not None
    assert manager.allocate(8 * SIZE, (), 0) is None, "two blocks stay free"
    assert manager.allocate(7 * SIZE, (), 0) is not None
    assert manager.extend(running.blocks, 3 * SIZE), "a running request may use them"
    assert not manager.extend(running.blocks, 4 * SIZE)
