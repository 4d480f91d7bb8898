"""The shared formulas, at numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from services.core.config import CostConfig
from services.core.cost import decode_step_ms, prefill_ms, transfer_ms

COST = CostConfig(
    prefill_ms=10,
    prefill_token_ms=2,
    prefill_pair_ms=0.5,
    decode_step_ms=20,
    decode_row_ms=3,
    decode_context_ms=0.1,
    transfer_ms=5,
    transfer_token_ms=0.25,
)


def test_prefill_counts_each_token_and_each_pair_once() -> None:
    assert prefill_ms(COST, 0) == 0
    assert prefill_ms(COST, 4) == 10 + 8 + 0.5 * (1 + 2 + 3 + 4)
    chunks = prefill_ms(COST, 3) + prefill_ms(COST, 1, context_tokens=3)
    assert chunks == pytest.approx(prefill_ms(COST, 4) + 10), "a chunk costs its fixed time and nothing else"


def test_decode_and_transfer_are_linear() -> None:
    assert decode_step_ms(COST, 0, 0) == 0
    assert decode_step_ms(COST, 4, 100) == 20 + 12 + 10
    assert transfer_ms(COST, 8) == 7
