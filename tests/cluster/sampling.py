"""Generate calls with several outputs and log-probabilities, and what a plain loop computes for the same request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from services.core.batch import Row, TokenLogprob
from services.core.request import Request, SamplingParams
from services.engine.input_batch import build
from services.engine.kv_pool import PagedKvPool
from services.engine.logprobs import token_logprob
from services.engine.model import Model
from services.engine.sampler import sample
from services.frontdoor.sampling import choices
from services.pb import inference_pb2 as pb
from services.scheduling.waiting import sample_spec

BLOCK_SIZE = 16


@dataclass
class Output:
    """One output: its ids, and what was told of their probabilities."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass
class Answer:
    """All that one call gave; the prompt's log-probabilities begin with its second token."""

    outputs: dict[int, Output] = field(default_factory=dict)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    finishes: dict[int, pb.Finished] = field(default_factory=dict)
    usage: pb.Usage | None = None
    seed: int = 0


def read(call: Iterable[pb.GenerateResponse]) -> Answer:
    """A call to its end."""
    got = Answer()
    for message in call:
        match message.WhichOneof("event"):
            case "started":
                got.seed = message.started.seed
            case "prompt_logprobs":
                assert message.prompt_logprobs.first_position == len(got.prompt_logprobs) + 1
                assert not got.outputs, "they come before the first token"
                got.prompt_logprobs += map(told, message.prompt_logprobs.positions)
            case "delta":
                output = got.outputs.setdefault(message.delta.index, Output())
                assert message.delta.token_index == len(output.tokens)
                output.tokens += message.delta.token_ids
                output.logprobs += map(told, message.delta.logprobs)
            case "finished":
                got.finishes[message.finished.index] = message.finished
            case "usage":
                got.usage = message.usage
    return got


def told(position: pb.PositionLogprobs) -> TokenLogprob:
    """The message as the value that it was made from."""
    top = tuple((each.token_id, each.logprob) for each in position.top)
    return TokenLogprob(position.token.token_id, position.token.logprob, top)


def expected(model: Model, prompt: list[int], n: int = 1, **sampling: Any) -> Answer:
    """The same from a loop that computes one token a step, each request alone and its prompt whole."""
    request = Request("r", 1, tuple(prompt), (), SamplingParams(**sampling), "")
    wanted = Answer()
    for index, each in enumerate(choices(request, n)):
        wanted.outputs[index] = Output()
        run_alone(model, each, wanted.outputs[index], wanted.prompt_logprobs)
    return wanted


def run_alone(model: Model, request: Request, output: Output, prompt_logprobs: list[TokenLogprob]) -> None:
    """One request; the prompt's log-probabilities are those of logits that were computed position by position."""
    sampling, spec, shape = request.sampling, sample_spec(request), model.shape
    num_blocks = -(-request.max_num_tokens // BLOCK_SIZE)
    table = tuple(range(num_blocks))
    pool = PagedKvPool(shape.num_layers, num_blocks, shape.kv_heads, BLOCK_SIZE, shape.head_dim, torch.float32)
    ids, start = request.prompt, 0
    if sampling.prompt_logprobs is not None:
        for place, target in enumerate(request.prompt[1:]):
            row = Row("r", request.prompt[place : place + 1], place, table, spec)
            with torch.inference_mode():
                logits = model.forward(build([row], shape, pool), pool)[0]
            prompt_logprobs.append(token_logprob(logits, target, sampling.prompt_logprobs))
        ids, start = request.prompt[-1:], len(request.prompt) - 1
    while not output.tokens or sampling.finish_reason(output.tokens[-1], len(output.tokens)) is None:
        row = Row("r", ids, start, table, spec)
        with torch.inference_mode():
            logits = model.forward(build([row], shape, pool), pool)
        output.tokens += sample(logits, [spec], [row.end], [output.tokens])
        if sampling.logprobs is not None:
            output.logprobs.append(token_logprob(logits[0], output.tokens[-1], sampling.logprobs))
        ids, start = (output.tokens[-1],), row.end
