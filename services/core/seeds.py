"""Named random streams derived from one root seed, and the few identifiers that must be unguessable."""

from __future__ import annotations

import hashlib
import random
import secrets

import numpy as np

RandomStream = random.Random
"""What `stream` gives."""


def derive_seed(root: int, name: str) -> int:
    """A 63-bit seed for the stream `name`, the same in every process and under every PYTHONHASHSEED."""
    digest = hashlib.blake2b(f"{root}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(root: int, name: str) -> RandomStream:
    """An independent generator for `name`."""
    return random.Random(derive_seed(root, name))


def numpy_stream(root: int, name: str) -> np.random.Generator:
    """An independent generator for `name` that draws arrays."""
    return np.random.Generator(np.random.PCG64(derive_seed(root, name)))


def new_incarnation() -> int:
    """A random 63-bit number that tells this process from every earlier one of the same name; never 0."""
    return secrets.randbits(63) | 1


def new_request_id() -> str:
    """A fresh request id: 128 random bits in hex, prefixed for readers of logs."""
    return f"req-{secrets.token_hex(16)}"


def new_trace_id() -> int:
    """A random 128-bit number that names a trace; never 0."""
    return secrets.randbits(128) | 1


def new_span_id() -> int:
    """A random 64-bit number that names a span; never 0."""
    return secrets.randbits(64) | 1


def new_seed() -> int:
    """A random 63-bit sampling seed for a request that names none."""
    return secrets.randbits(63)


def new_api_key() -> str:
    """A fresh API key: 256 random bits, prefixed so that scanners of leaked secrets can know it."""
    return f"tk-{secrets.token_urlsafe(32)}"


def new_key_id() -> str:
    """A fresh name for an API key, for logs and lists."""
    return f"k{secrets.token_hex(4)}"


def new_cluster_secret() -> str:
    """A fresh cluster secret: 256 random bits in hex."""
    return secrets.token_hex(32)
