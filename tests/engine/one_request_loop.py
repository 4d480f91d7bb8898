"""The plainest generation there is: one request, whole-prompt prefill, one token a step, blocks in order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from services.core.batch import Row, SampleSpec
from services.engine.input_batch import build
from services.engine.kv_pool import PagedKvPool
from services.engine.model import Model
from services.engine.model_runner import digest_of
from services.engine.model_shape import KV_DTYPE
from services.engine.sampler import sample

BLOCK_SIZE = 16


@dataclass(frozen=True)
class Generated:
    """Output of one request: token ids, and the SHA-256 of the logits that each was chosen from."""

    tokens: tuple[int, ...]
    digests: tuple[str, ...]


def generate(
    model: Model,
    prompt: tuple[int, ...],
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    stop_token_ids: tuple[int, ...] = (),
) -> Generated:
    """Run one request alone, with nothing of the system but the model itself."""
    shape = model.shape
    num_blocks = -(-(len(prompt) + max_tokens) // BLOCK_SIZE)
    dtype = getattr(torch, KV_DTYPE[model.dtype])
    pool = PagedKvPool(shape.num_layers, num_blocks, shape.kv_heads, BLOCK_SIZE, shape.head_dim, dtype)
    spec = SampleSpec(temperature, seed)
    ids, start = prompt, 0
    tokens: list[int] = []
    digests: list[str] = []
    while len(tokens) < max_tokens and not (tokens and tokens[-1] in stop_token_ids):
        row = Row("only", ids, start, tuple(range(num_blocks)), spec)
        with torch.inference_mode():
            logits = model.forward(build([row], shape, pool), pool)
            tokens += sample(logits, [spec], [row.end])
        digests.append(digest_of(logits[0]))
        ids, start = (tokens[-1],), row.end
    return Generated(tuple(tokens), tuple(digests))


def forced_logits(model: Model, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Tensor:
    """[tokens, vocab] float32: the logits that each token would be chosen from, whatever the model would choose."""
    shape = model.shape
    num_blocks = -(-(len(prompt) + len(tokens)) // BLOCK_SIZE)
    dtype = getattr(torch, KV_DTYPE[model.dtype])
    pool = PagedKvPool(shape.num_layers, num_blocks, shape.kv_heads, BLOCK_SIZE, shape.head_dim, dtype)
    spec = SampleSpec(0.0, 0)
    ids, start = prompt, 0
    found = []
    for token in tokens:
        row = Row("only", ids, start, tuple(range(num_blocks)), spec)
        with torch.inference_mode():
            found.append(model.forward(build([row], shape, pool), pool)[0])
        ids, start = (token,), row.end
    return torch.stack(found)
