"""Frames of the connections that workers take: a length and JSON, from callers who know the worker's secret."""

from __future__ import annotations

import hmac
import json
import struct
from typing import Any

from services.core.codec import decode, encode

LENGTH = struct.Struct("<I")
NONCE_BYTES, PROOF_BYTES = 32, 32
MAX_FRAME_BYTES = 64 << 20
_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False)


def proof(secret: bytes, nonce: bytes) -> bytes:
    """What a caller answers to the server's nonce: HMAC-SHA256 of it."""
    return hmac.digest(secret, nonce, "sha256")


def pack_frame(value: object) -> bytes:
    """A value that the codec knows, with the length in front.

    Raises:
        ValueError: it is longer than a frame may be.
    """
    text = _JSON.encode(encode(value)).encode()
    if len(text) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(text)} bytes; a frame holds {MAX_FRAME_BYTES}")
    return LENGTH.pack(len(text)) + text


def frame_length(header: bytes) -> int:
    """Bytes that follow a frame's first `LENGTH.size`.

    Raises:
        ValueError: more than a frame may have.
    """
    length: int = LENGTH.unpack(header)[0]
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    return length


def unpack_frame(text: bytes) -> Any:
    """The inverse of `pack_frame`, without the length.

    Raises:
        ValueError: it is something else.
    """
    try:
        return decode(json.loads(text))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a frame: {error!r}") from error
