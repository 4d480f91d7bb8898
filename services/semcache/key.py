"""What makes two requests comparable: the digest of all that an answer depends on, and of all but the last question.

Whatever is not named as harmless by the caller is key material, so a field that is added later can only cost hits.
Parts are length-prefixed before they are hashed: no two lists of parts give the same bytes. Text is taken as it is, not
normalised: other code points are other tokens, and may have another answer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.semcache.config import Scope

SCHEMA = b"triptych-cache-1"
"""Changes whenever what a key means does."""
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an answer comes from and who may have it.

    Attributes:
        scope: digest that the server made of the caller's identity; never taken from a client.
        model: digest of weights and configuration.
        template: digest of tokenizer and chat template.
        adapter: digest of what is put on top of the model; empty without.
    """

    scope: bytes
    model: bytes
    template: bytes = b""
    adapter: bytes = b""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Names a request.

    Attributes:
        exact: SHA-256 of everything, in hex: the same request again.
        partition: SHA-256 of everything but the last user turn's text: requests among which meaning may be compared.
        question: that text; None where there is none, so that only equal requests can be hits.
        turns: messages of the conversation.
        scope: who may have the answer, as in `Origin`.
    """

    exact: str
    partition: str
    question: str | None
    turns: int
    scope: bytes


def make_key(origin: Origin, fields: Mapping[str, Any], messages: Sequence[Mapping[str, Any]] = ()) -> CacheKey:
    """The key of one request.

    Args:
        fields: everything but the conversation that the answer may depend on, defaults filled in; plain values.
        messages: the conversation, each with `role` and `content`; content that is no string is never compared softly.
    """
    turns = [dict(each) for each in messages]
    hard = hashlib.sha256(
        length_prefixed(SCHEMA, origin.scope, origin.model, origin.template, origin.adapter, canonical(fields))
    )
    exact = _digest(hard, turns)
    question, partition = None, exact
    if turns and turns[-1].get("role") == "user" and isinstance(turns[-1].get("content"), str):
        question = turns[-1]["content"]
        turns[-1]["content"] = None  # no message has this content, so no partition is an exact key
        partition = _digest(hard, turns)
    return CacheKey(exact, partition, question, len(turns), origin.scope)


def _digest(hard: hashlib._Hash, turns: Sequence[Mapping[str, Any]]) -> str:
    """Of everything but the conversation, which is hashed, and that."""
    whole = hard.copy()
    whole.update(length_prefixed(canonical(turns)))
    return whole.hexdigest()


def length_prefixed(*parts: bytes) -> bytes:
    """The parts one after the other, each behind its length."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys; equal numbers are written alike, whatever their type.

    Raises:
        ValueError: a number that is not finite, or what JSON does not have, as bytes and names that are no text.
    """
    return ENCODER.encode(_plain(value)).encode()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be part of a cache key")
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    raise ValueError(f"{type(value).__name__} cannot be part of a cache key")


def scope_digest(scope: Scope, salt: bytes, key_id: str) -> bytes:
    """Who may have an answer, as a digest for `Origin.scope`.

    Args:
        salt: HMAC of the tenant under the cluster's secret (protocol section 8).
        key_id: name of the caller's API key, for answers that stay with one key.
    """
    who = {Scope.GLOBAL: (), Scope.TENANT: (salt,), Scope.KEY: (salt, key_id.encode())}[scope]
    return hashlib.sha256(length_prefixed(scope.value.encode(), *who)).digest()
