"""The data leg of a hand-off against one raw send of the same bytes over the same pair group."""

from __future__ import annotations

import statistics
import time

import pytest

from services.engine.kv_wire import HEADER_BYTES
from tests.engine.link_peer import Peer, Side, key

pytestmark = pytest.mark.bench
SMOLLM2 = {
    "num_layers": 30,
    "num_blocks": 256,
    "num_kv_heads": 3,
    "block_size": 16,
    "head_dim": 64,
    "layers_per_group": 3,
}
TOKENS, ROUNDS, WARM_UP = 512, 20, 3
MS = 1e6


def test_data_leg_of_512_tokens_is_at_most_1_8_raw_sends() -> None:
    """Both start when the receiver has posted and end when it has the bytes (the leg: in its pool, checked)."""
    here, there = Side(SMOLLM2, seed=1), Peer(SMOLLM2, seed=2)
    link = key()
    address = there.call("serve")
    there.start("open", link, "receiver", address)
    here.open(link, "sender", address)
    there.result()
    count = TOKENS // SMOLLM2["block_size"]
    source, target = list(range(count)), list(range(100, 100 + count))
    num_bytes = count * here.pool.block_bytes
    raw, leg = [], []
    for number in range(WARM_UP + ROUNDS):
        there.start("raw", link, num_bytes)
        time.sleep(0.01)  # the receive is posted by then
        start = time.monotonic_ns()
        here.raw(link, num_bytes)
        raw.append((there.result() - start) / MS)
        there.start("receive", link, target, part=number)
        time.sleep(0.01)
        start = time.monotonic_ns()
        here.send(link, source, part=number)
        leg.append((there.result() - start) / MS)
    raw, leg = raw[WARM_UP:], leg[WARM_UP:]
    ratio = statistics.median(leg) / statistics.median(raw)
    print(
        f"\n{TOKENS} tokens, {num_bytes / 2**20:.1f} MB with {HEADER_BYTES}-byte headers: data leg "
        f"{statistics.median(leg):.2f} ms, raw send {statistics.median(raw):.2f} ms, "
        f"ratio {ratio:.2f} (medians of {ROUNDS})"
    )
    there.close()
    assert ratio <= 1.8
