"""What a client may ask of the cache: `x-cache-control`, which can only make it stricter."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.core.errors import InvalidRequestError

HEADER = "x-cache-control"


@dataclass(frozen=True, slots=True)
class CacheControl:
    """One request's wishes.

    Attributes:
        read: look for an answer.
        write: keep the answer.
        max_age_s: take no answer older than this.
        ttl_s: keep the answer no longer than this.
        min_similarity: take no answer to a question less alike than this.
    """

    read: bool = True
    write: bool = True
    max_age_s: float = math.inf
    ttl_s: float = math.inf
    min_similarity: float = 0.0


DEFAULT_CONTROL = CacheControl()
"""Of a client that wishes nothing."""


def parse_control(text: str) -> CacheControl:
    """`no-cache`, `no-store`, `bypass`, `max-age=S`, `ttl=S`, `min-similarity=X`, separated by commas.

    Raises:
        InvalidRequestError: an unknown directive, or a number that cannot be.
    """
    read, write = True, True
    numbers = {"max-age": math.inf, "ttl": math.inf, "min-similarity": 0.0}
    for part in filter(None, (each.strip().lower() for each in text.split(","))):
        name, has_value, value = (each.strip() for each in part.partition("="))
        if name in numbers:
            numbers[name] = _number(part, value, 1.0 if name == "min-similarity" else math.inf)
        elif has_value or name not in ("no-cache", "no-store", "bypass"):
            known = "no-cache, no-store, bypass, max-age=S, ttl=S, min-similarity=X"
            raise InvalidRequestError(HEADER, f"{part[:80]!r} is not known; use {known}")
        else:
            read = read and name == "no-store"
            write = write and name == "no-cache"
    return CacheControl(read, write, numbers["max-age"], numbers["ttl"], numbers["min-similarity"])


def _number(part: str, value: str, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most or math.isinf(number):
        limit = "0 or above" if math.isinf(most) else f"between 0 and {most:g}"
        raise InvalidRequestError(HEADER, f"{part[:80]!r}: the number must be {limit}")
    return number
