"""DistServe's accept rule at its borders."""

from __future__ import annotations

from services.decode.intake import accepts


def test_waiting_blocks_stay_strictly_below_the_share() -> None:
    def rule(waiting: int) -> bool:
        return accepts(16, waiting_blocks=waiting, free=50, total=100, share=0.05, block_size=16)

    assert rule(0)
    assert rule(4)
    assert not rule(5), "equality refuses"


def test_the_prompt_must_fit_the_free_blocks() -> None:
    def rule(tokens: int) -> bool:
        return accepts(tokens, waiting_blocks=0, free=2, total=100, share=0.05, block_size=16)

    assert rule(32)
    assert not rule(33)


def test_with_nothing_waiting_a_small_pool_still_accepts() -> None:
    assert accepts(16, waiting_blocks=0, free=4, total=4, share=0.05, block_size=16)
