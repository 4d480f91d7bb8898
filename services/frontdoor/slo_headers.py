"""What proxies say about a request in headers, or gRPC metadata: latency targets and priority, under several names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.core.errors import InvalidRequestError

MS_PER_S = 1000
MAX_MS = 2**32 - 1
TTFT_NAMES = ("x-slo-ttft-ms", "x-llm-d-slo-ttft-ms", "x-sgl-ttft-slo-ms")
TPOT_NAMES = ("x-slo-tpot-ms", "x-llm-d-slo-tpot-ms", "x-sgl-tpot-slo-ms")
TOKENS_PER_S_NAMES = ("x-sgl-tps-slo",)
PRIORITY_NAMES = ("x-priority",)


@dataclass(frozen=True, slots=True)
class SloHeaders:
    """Targets from headers; None where there is none. They win over the message's fields.

    Attributes:
        ttft_ms: time to the first output token, above 0.
        tpot_ms: mean time per output token after it, above 0.
        priority: as in GenerateRequest.
    """

    ttft_ms: int | None = None
    tpot_ms: int | None = None
    priority: int | None = None


def slo_headers(headers: Mapping[str, str]) -> SloHeaders:
    """Read what is there; of several names for one thing the first counts.

    Args:
        headers: names in lower case.

    Raises:
        InvalidRequestError: a value is no number or out of range; `field` is the header's name.
    """
    tpot_ms = first(headers, TPOT_NAMES, milliseconds)
    if tpot_ms is None:
        tpot_ms = first(headers, TOKENS_PER_S_NAMES, milliseconds_of_rate)
    return SloHeaders(
        ttft_ms=first(headers, TTFT_NAMES, milliseconds),
        tpot_ms=tpot_ms,
        priority=first(headers, PRIORITY_NAMES, whole_number),
    )


def first(headers: Mapping[str, str], names: tuple[str, ...], read: Callable[[str, str], int]) -> int | None:
    """The value of the first of some names that is there."""
    return next((read(name, headers[name]) for name in names if name in headers), None)


def milliseconds(name: str, text: str) -> int:
    """A whole number of milliseconds, at least 1; parts of one are rounded."""
    return max(1, round(positive(name, text)))


def milliseconds_of_rate(name: str, text: str) -> int:
    """Tokens a second as the time of one."""
    return max(1, round(min(MS_PER_S / positive(name, text), MAX_MS)))


def positive(name: str, text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_MS:  # refuses NaN too
        raise InvalidRequestError(name, f"{text[:40]!r} is not a number above 0")
    return value


def whole_number(name: str, text: str) -> int:
    """An integer."""
    try:
        return int(text[:20])
    except ValueError:
        raise InvalidRequestError(name, f"{text[:40]!r} is not a whole number") from None
