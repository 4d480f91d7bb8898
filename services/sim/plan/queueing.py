"""Mean time to first token of an M/D/1 queue: what prunes a search (DistServe, section 3.1).

Prompts of one length arrive at random (Poisson) at `rate` a second and take `seconds` each. A rate that cannot be kept
up with waits for ever: infinity.
"""

from __future__ import annotations

import math


def single(rate: float, seconds: float) -> float:
    """One device: D + R D^2 / (2 (1 - R D)); in seconds."""
    return _queue(rate, seconds, seconds)


def pipeline(rate: float, seconds: float, stages: int = 2) -> float:
    """Equal stages: a prompt takes as long, and leaves the first one after D / s; D + R D^2 / (2 s (s - R D))."""
    return _queue(rate, seconds / stages, seconds)


def tensor(rate: float, seconds: float, speedup: float) -> float:
    """Ranks that are `speedup` times as fast together: D / K + R D^2 / (2 K (K - R D))."""
    return _queue(rate, seconds / speedup, seconds / speedup)


def replicated(rate: float, seconds: float, replicas: int) -> float:
    """Replicas that requests are dealt to evenly."""
    return single(rate / replicas, seconds)


def _queue(rate: float, service_s: float, latency_s: float) -> float:
    """Pollaczek-Khinchine for a fixed service time, and a latency that may be longer than it."""
    load = rate * service_s
    return latency_s + rate * service_s**2 / (2 * (1 - load)) if load < 1 else math.inf
