"""The data leg of a hand-off against one raw send of the same bytes over the same pair group."""

from __future__ import annotations

import pytest

from tests.bench.data_leg import ROUNDS, TOKENS, measure

pytestmark = pytest.mark.bench


def test_data_leg_of_512_tokens_is_at_most_1_8_raw_sends() -> None:
    found = measure()
    print(
        f"\n{TOKENS} tokens, {found.num_bytes / 2**20:.1f} MB: data leg {found.leg_ms:.2f} ms, raw send "
        f"{found.raw_ms:.2f} ms, ratio {found.ratio:.2f} (medians of {ROUNDS})"
    )
    assert found.ratio <= 1.8
