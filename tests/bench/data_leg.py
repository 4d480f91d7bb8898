"""Times the data leg of a 512-token hand-off (gather, checksum, send, check, scatter) between two processes."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from tests.engine.link_peer import Peer, Side, key

SMOLLM2 = {
    "num_layers": 30,
    "num_blocks": 256,
    "num_kv_heads": 3,
    "block_size": 16,
    "head_dim": 64,
    "layers_per_group": 3,
}
TOKENS, ROUNDS, WARM_UP = 512, 20, 3
POSTED_S = 0.01  # a receive that was started this long ago is posted
MS = 1e6


@dataclass(frozen=True)
class DataLeg:
    """Medians, and the median of the ratios of neighbouring runs."""

    num_bytes: int
    raw_ms: float
    leg_ms: float
    ratio: float


def measure() -> DataLeg:
    """A raw send and a data leg in turn; both start when the receiver has posted, and end when it has the bytes."""
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
        time.sleep(POSTED_S)
        start = time.monotonic_ns()
        here.raw(link, num_bytes)
        raw.append((there.result() - start) / MS)
        there.start("receive", link, target, part=number)
        time.sleep(POSTED_S)
        start = time.monotonic_ns()
        here.send(link, source, part=number)
        leg.append((there.result() - start) / MS)
    there.close()
    here.drop(link)
    raw, leg = raw[WARM_UP:], leg[WARM_UP:]
    ratio = statistics.median(one / other for one, other in zip(leg, raw, strict=True))
    return DataLeg(num_bytes, statistics.median(raw), statistics.median(leg), ratio)
