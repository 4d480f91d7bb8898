"""Rows with the shape of BurstGPT: days and hours of day, bursts, conversation and API, models, failures, lengths.

    requests of the day x share of the hour ──► rate of each hour ──► Gamma gaps ──► arrivals
    tokens per request of the day ──► log-normal prompt ──► output by the published curve, with noise

What is measured and what is fitted, and to what, is in samples/README.md. The published curve is that of conversations;
how API requests split into prompt and output is not known, so they follow it too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadgen.arrivals import Segment, check_above_zero, modulated
from services.core.errors import ConfigError
from services.core.seeds import numpy_stream
from services.core.workload import WorkloadRow

SHAPE_FILE = Path(__file__).parents[1] / "samples" / "burstgpt_shape.json"
HOUR_S, DAY_HOURS = 3600.0, 24


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of the trace.

    Attributes:
        hour_shares: of a day's requests, 24 of them; their sum is 1.
        day_requests: requests of each day.
        day_tokens: mean tokens of a request, prompt and output together, of each day.
        failed_share, conversation_share, chatgpt_share: of all requests.
        most_prompt_tokens, most_output_tokens: the largest seen.
        output_base_tokens, output_per_prompt_token: mean output by prompt, a line.
        gap_cv: of the gaps between arrivals within an hour.
        prompt_sigma, output_sigma: of the logarithms of prompts, and of outputs around the line.
    """

    hour_shares: tuple[float, ...]
    day_requests: tuple[int, ...]
    day_tokens: tuple[float, ...]
    failed_share: float
    conversation_share: float
    chatgpt_share: float
    most_prompt_tokens: int
    most_output_tokens: int
    output_base_tokens: float
    output_per_prompt_token: float
    gap_cv: float
    prompt_sigma: float
    output_sigma: float

    def mean_prompt(self, day: int) -> float:
        """Mean prompt that gives the day's mean tokens: failed requests have a prompt and no output."""
        answered = 1 - self.failed_share
        return (self.day_tokens[day] - answered * self.output_base_tokens) / (
            1 + answered * self.output_per_prompt_token
        )


def burstgpt_shape() -> Shape:
    """The shape of BurstGPT_1, from the file beside the code."""
    found = json.loads(SHAPE_FILE.read_text(encoding="utf-8"))
    hours = found["hour_of_day_requests"]
    shares = ("failed_share", "conversation_share", "chatgpt_share")
    lines = ("most_prompt_tokens", "most_output_tokens", "output_base_tokens", "output_per_prompt_token")
    return Shape(
        hour_shares=tuple(each / math.fsum(hours) for each in hours),
        day_requests=tuple(found["day_requests"]),
        day_tokens=tuple(
            tokens / requests for tokens, requests in zip(found["day_tokens"], found["day_requests"], strict=True)
        ),
        **{name: found[name] for name in (*shares, *lines)},
        **found["fitted"],
    )


def hourly(shape: Shape, start_hour: int, length_s: float, scale: float = 1.0) -> list[Segment]:
    """Arrivals of each hour of a stretch.

    Args:
        start_hour: since the trace's first midnight.
        scale: rates are multiplied by it.

    Raises:
        ConfigError: the stretch is not within the trace's days.
    """
    check_above_zero("--duration-s", length_s, "give the length of the trace in seconds")
    hours = len(shape.day_requests) * DAY_HOURS
    if not 0 <= start_hour < hours:
        raise ConfigError("--start-day", start_hour // DAY_HOURS, f"must be from 0 to {hours // DAY_HOURS - 1}")
    if start_hour * HOUR_S + length_s > hours * HOUR_S:
        left_s = (hours - start_hour) * HOUR_S
        raise ConfigError("--duration-s", length_s, f"the shape ends {left_s:g} s after that hour; ask for less")
    found = []
    for place in range(math.ceil(length_s / HOUR_S)):
        day, hour = divmod(start_hour + place, DAY_HOURS)
        rate = shape.day_requests[day] * shape.hour_shares[hour] / HOUR_S * scale
        found.append(Segment(min(HOUR_S, length_s - place * HOUR_S), rate, shape.gap_cv, "gamma"))
    return found


def mean_rate(segments: list[Segment]) -> float:
    """Requests per second over all segments."""
    return math.fsum(each.rate * each.length_s for each in segments) / math.fsum(each.length_s for each in segments)


def burstgpt_rows(shape: Shape, segments: list[Segment], start_hour: int, seed: int) -> Iterator[WorkloadRow]:
    """Requests of the segments that `hourly` gave for `start_hour`; failed ones have no output."""
    kinds, lengths = (numpy_stream(seed, f"loadgen/synth/burstgpt/{name}") for name in ("kinds", "lengths"))
    prompts = [shape.mean_prompt(day) for day in range(len(shape.day_requests))]
    for at_s in modulated(segments, seed, "synth/burstgpt/arrivals"):
        day = min(int((start_hour * HOUR_S + at_s) // (DAY_HOURS * HOUR_S)), len(prompts) - 1)
        prompt, output = _lengths(shape, prompts[day], lengths)
        failed, conversation, chatgpt = kinds.random(3)
        is_failed = bool(failed < shape.failed_share)
        yield WorkloadRow(
            at_s,
            prompt,
            0 if is_failed else output,
            category="conversation" if conversation < shape.conversation_share else "api",
            model="ChatGPT" if chatgpt < shape.chatgpt_share else "GPT-4",
            failed=is_failed,
        )


def _lengths(shape: Shape, mean_prompt: float, draws: np.random.Generator) -> tuple[int, int]:
    """Log-normal of that mean, and an output around the line; exp(N(-s²/2, s)) has mean 1."""
    first, second = draws.standard_normal(2)
    prompt = mean_prompt * math.exp(shape.prompt_sigma * (first - shape.prompt_sigma / 2))
    line = shape.output_base_tokens + shape.output_per_prompt_token * prompt
    output = line * math.exp(shape.output_sigma * (second - shape.output_sigma / 2))
    return (
        min(max(1, round(prompt)), shape.most_prompt_tokens),
        min(max(1, round(output)), shape.most_output_tokens),
    )
