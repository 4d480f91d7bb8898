"""A client's sampling fields to `SamplingParams`: every one is checked here, and its error names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.core.errors import InvalidRequestError
from services.core.request import Request, SamplingParams
from services.core.seeds import derive_seed, new_seed
from services.pb import inference_pb2 as pb

MAX_SEED = 2**63 - 1
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_BIASED_IDS = 300
MAX_STOP_IDS = 64
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_BIAS = 100.0
RANGES = {
    "temperature": (0.0, 2.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
"""Least and greatest value of each number whose both ends are allowed."""


def sampling_params(
    message: pb.Sampling, max_tokens: int, vocab_size: int, eos_token_ids: tuple[int, ...], grammar: str = ""
) -> SamplingParams:
    """Checked parameters; a missing seed is drawn here.

    Args:
        max_tokens: as worked out from the prompt and the context window.
        vocab_size: ids that a client may name are below this.
        eos_token_ids: ids that end an output unless the client ignores them.
        grammar: what the output must be. One that has nothing left to go on with ends, also when ends are ignored:
            they are then not chosen before.

    Raises:
        InvalidRequestError: a field is wrong; `field` is its proto path.
    """
    for name, (least, most) in RANGES.items():
        value = getattr(message, name)
        if message.HasField(name) and not least <= value <= most:  # refuses NaN too
            raise InvalidRequestError(f"sampling.{name}", f"{value} is not between {least:g} and {most:g}")
    if message.HasField("top_p") and not 0.0 < message.top_p <= 1.0:
        raise InvalidRequestError("sampling.top_p", f"{message.top_p} is not above 0 and up to 1")
    if message.seed > MAX_SEED:
        raise InvalidRequestError("sampling.seed", f"{message.seed} is above 2^63 - 1")
    if message.min_tokens > max_tokens:
        raise InvalidRequestError("sampling.min_tokens", f"{message.min_tokens} is above max_tokens, {max_tokens}")
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(message, name) > MAX_TOP_LOGPROBS:
            raise InvalidRequestError(f"sampling.{name}", f"{getattr(message, name)} is above {MAX_TOP_LOGPROBS}")
    check_choices(message)
    check_stops(message.stop)
    stops = stop_ids(message.stop_token_ids, vocab_size)
    endless = message.ignore_eos and not grammar
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=message.temperature,
        seed=message.seed if message.HasField("seed") else new_seed(),
        stop_token_ids=stops if endless else tuple(dict.fromkeys((*eos_token_ids, *stops))),
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=biases(message.logit_bias, vocab_size),
        min_tokens=max_tokens if grammar and message.ignore_eos else message.min_tokens,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        grammar=grammar,
    )


def check_choices(message: pb.Sampling) -> None:
    """Raises:
    InvalidRequestError: `n` is out of range, or asks for copies of one greedy output.
    """
    if message.HasField("n") and not 1 <= message.n <= MAX_CHOICES:
        raise InvalidRequestError("sampling.n", f"{message.n} is not between 1 and {MAX_CHOICES}")
    if message.n > 1 and message.temperature == 0:
        raise InvalidRequestError("sampling.n", f"{message.n} outputs at temperature 0 are the same; set a temperature")


def stop_ids(ids: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    """Raises:
    InvalidRequestError: too many ids, or one that the model does not have.
    """
    if len(ids) > MAX_STOP_IDS:
        raise InvalidRequestError("sampling.stop_token_ids", f"{len(ids)} ids; at most {MAX_STOP_IDS} are allowed")
    for place, token_id in enumerate(ids):
        if token_id >= vocab_size:
            where = f"sampling.stop_token_ids[{place}]"
            raise InvalidRequestError(where, f"{token_id} is not below the vocabulary's {vocab_size}")
    return tuple(ids)


def check_stops(stops: Sequence[str]) -> None:
    """Raises:
    InvalidRequestError: too many stop strings, or one that is empty or too long.
    """
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError("sampling.stop", f"{len(stops)} strings; at most {MAX_STOPS} are allowed")
    for place, stop in enumerate(stops):
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise InvalidRequestError(f"sampling.stop[{place}]", f"must have 1 to {MAX_STOP_CHARS} characters")


def biases(given: Mapping[int, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    """Biases by ascending id.

    Raises:
        InvalidRequestError: too many ids, one that the model does not have, or a value out of range.
    """
    if len(given) > MAX_BIASED_IDS:
        raise InvalidRequestError("sampling.logit_bias", f"{len(given)} ids; at most {MAX_BIASED_IDS} are allowed")
    for token_id, value in given.items():
        where = f"sampling.logit_bias[{token_id}]"
        if token_id >= vocab_size:
            raise InvalidRequestError(where, f"the id is not below the vocabulary's {vocab_size}")
        if not -MAX_BIAS <= value <= MAX_BIAS:
            raise InvalidRequestError(where, f"{value} is not between {-MAX_BIAS:g} and {MAX_BIAS:g}")
    return tuple(sorted(given.items()))


def choice_ids(request_id: str, n: int) -> list[str]:
    """Ids of the n outputs of a request: its own, then ids that no client can send, because a client's have no `#`."""
    return [request_id, *(f"{request_id}#{index}" for index in range(1, n))]


def choices(request: Request, n: int) -> tuple[Request, ...]:
    """The requests that make n outputs; the first is the request itself, and it alone scores the prompt."""
    sampling = request.sampling
    others = [
        replace(
            request,
            request_id=request_id,
            sampling=replace(sampling, seed=derive_seed(sampling.seed, f"choice/{index}"), prompt_logprobs=None),
        )
        for index, request_id in enumerate(choice_ids(request.request_id, n)[1:], start=1)
    ]
    return (request, *others)
