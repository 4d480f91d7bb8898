"""Block arithmetic and the chained hash by which equal prefixes are found (protocol section 8)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np

HASH_BYTES = 16
NO_AUTH_SALT = hashlib.sha256(b"triptych: no authentication, one tenant").digest()


def num_blocks(num_tokens: int, block_size: int) -> int:
    """Blocks that hold `num_tokens` tokens."""
    return -(-num_tokens // block_size)


def tenant_salt(cluster_secret: bytes, tenant: str) -> bytes:
    """HMAC-SHA256(cluster secret, tenant): prefixes of two tenants never meet."""
    return hmac.new(cluster_secret, tenant.encode(), hashlib.sha256).digest()


def root_hash(*, model_digest: bytes, dtype: str, rope: str, block_size: int, salt: bytes) -> bytes:
    """Start of every chain: two deployments whose KV bytes could differ never share a hash."""
    hasher = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in (model_digest, dtype.encode(), rope.encode(), block_size.to_bytes(4, "little"), salt):
        hasher.update(len(part).to_bytes(4, "little") + part)
    return hasher.digest()


def prompt_block_hashes(root: bytes, token_ids: Sequence[int], block_size: int) -> tuple[bytes, ...]:
    """h_i = BLAKE2b-128(h_{i-1} || token ids of block i as int32 LE), for full blocks only."""
    return extend_block_hashes(root, (), token_ids, block_size)


def extend_block_hashes(
    root: bytes, known: tuple[bytes, ...], token_ids: Sequence[int], block_size: int
) -> tuple[bytes, ...]:
    """`prompt_block_hashes` of `token_ids`, of whose leading blocks the hashes are known."""
    packed = np.asarray(token_ids, dtype="<i4").tobytes()
    step = 4 * block_size
    hashes = list(known)
    previous = known[-1] if known else root
    for start in range(len(known) * step, len(packed) - step + 1, step):
        previous = hashlib.blake2b(previous + packed[start : start + step], digest_size=HASH_BYTES).digest()
        hashes.append(previous)
    return tuple(hashes)
