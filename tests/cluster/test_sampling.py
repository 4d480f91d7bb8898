"""Sampling through two processes is that of a plain loop: draws, penalties, probabilities, several outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from services.engine.model import Model
from services.engine.weights import load_tensors
from tests.cluster.harness import Cluster
from tests.cluster.sampling import expected, read

pytestmark = pytest.mark.cluster

PROMPT = [(7 * place) % 900 + 20 for place in range(40)]
EVERYTHING = {
    "max_tokens": 8, "temperature": 1.1, "seed": 77, "top_k": 50, "top_p": 0.95, "min_p": 0.01,
    "repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.3, "min_tokens": 2, "logprobs": 2,
    "prompt_logprobs": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    """The same model in this process."""
    torch.set_num_threads(1)
    return Model(*load_tensors(model_folder), "float32")


def test_everything_at_once_is_what_a_plain_loop_computes(cluster: Cluster, model: Model) -> None:
    cluster.generate(PROMPT, max_tokens=2)  # its blocks are cached; a scored prompt must not use them
    got = read(cluster.stream(PROMPT, n=2, ignore_eos=True, logit_bias={300: 4.0, 301: -100.0}, **EVERYTHING))
    wanted = expected(model, PROMPT, n=2, logit_bias=((300, 4.0), (301, -100.0)), **EVERYTHING)
    assert got.outputs == wanted.outputs
    assert got.prompt_logprobs == wanted.prompt_logprobs
    assert len(got.prompt_logprobs) == len(PROMPT) - 1
    assert got.outputs[0].tokens != got.outputs[1].tokens
    assert got.usage is not None and (got.usage.cached_tokens, got.usage.output_tokens) == (0, 16)
    assert got.finishes[1].usage.cached_tokens == 32, "the second output found the first one's prompt"
    cluster.wait_idle()


def test_a_drawn_seed_is_told_and_gives_the_same_tokens_again(cluster: Cluster) -> None:
    once = read(cluster.stream(PROMPT, temperature=1.5, max_tokens=6, ignore_eos=True))
    again = read(cluster.stream(PROMPT, temperature=1.5, max_tokens=6, ignore_eos=True, seed=once.seed))
    assert once.seed and again.outputs == once.outputs
    stop = once.outputs[0].tokens[2]
    first = once.outputs[0].tokens.index(stop)
    ended = read(cluster.stream(PROMPT, temperature=1.5, max_tokens=6, seed=once.seed, stop_token_ids=[stop]))
    assert ended.outputs[0].tokens == once.outputs[0].tokens[: first + 1]
    assert ended.finishes[0].stop_token_id == stop
