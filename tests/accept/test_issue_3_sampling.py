"""Issue 3, sampling: every parameter through prefill and decode, alone and in company, against a plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from services.engine.model import Model
from services.engine.weights import load_tensors
from tests.cluster.conftest import cluster_config
from tests.cluster.harness import Cluster, running
from tests.cluster.sampling import expected, read

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
CACHE = Path(__file__).parents[2] / ".cache" / "models"

CASES: list[dict[str, Any]] = [
    {"temperature": 0.7, "seed": 1},
    {"temperature": 1.3, "seed": 2, "top_k": 40},
    {"temperature": 1.0, "seed": 3, "top_p": 0.9, "logprobs": 5},
    {"temperature": 1.5, "seed": 4, "min_p": 0.05},
    {"repetition_penalty": 1.3},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "logprobs": 20},
    {"temperature": 0.9, "seed": 5, "repetition_penalty": 1.1, "frequency_penalty": 0.2, "top_k": 100, "top_p": 0.95},
    {"temperature": 1.0, "seed": 6, "logprobs": 0, "prompt_logprobs": 3},
]


def prompt_of(number: int) -> list[int]:
    return [(7 * place + 31 * number) % 900 + 20 for place in range(20 + 60 * number)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A float32 cluster; requests wait for a lost worker's successor however busy the machine is."""
    folder = tmp_path_factory.mktemp("accept")
    config = cluster_config(prepare_model(DEFAULT_MODEL, CACHE), folder)
    with running(folder, {**config, "router": {"wait_for_worker_s": 120}}) as started:
        yield started


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)
    return Model(*load_tensors(prepare_model(DEFAULT_MODEL, CACHE)), "float32")


@pytest.mark.parametrize("together", [1, 8, 16])
def test_a_sample_does_not_change_with_its_company(cluster: Cluster, model: Model, together: int) -> None:
    wanted = [expected(model, prompt_of(number), max_tokens=24, **case) for number, case in enumerate(CASES)]
    queue = [number % len(CASES) for number in range(max(together, len(CASES)))]
    for first in range(0, len(queue), together):
        numbers = queue[first : first + together]
        calls = [cluster.stream(prompt_of(n), max_tokens=24, ignore_eos=True, **CASES[n]) for n in numbers]
        for number, call in zip(numbers, calls, strict=True):
            got = read(call)
            assert got.outputs == wanted[number].outputs, CASES[number]
            assert got.prompt_logprobs == wanted[number].prompt_logprobs
    cluster.wait_idle()


def test_prompt_logprobs_agree_with_transformers(cluster: Cluster) -> None:
    prompt = prompt_of(9)
    got = read(cluster.stream(prompt, max_tokens=1, prompt_logprobs=5))
    reference = AutoModelForCausalLM.from_pretrained(prepare_model(DEFAULT_MODEL, CACHE), dtype=torch.float32)
    with torch.inference_mode():
        logprobs = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
    wanted = [float(logprobs[place, target]) for place, target in enumerate(prompt[1:])]
    assert [each.logprob for each in got.prompt_logprobs] == pytest.approx(wanted, abs=2e-3)
    tops = logprobs[:-1].topk(5).values.tolist()
    for found, top in zip(got.prompt_logprobs, tops, strict=True):
        assert [value for _, value in found.top] == pytest.approx(top, abs=2e-3)


def test_sixteen_outputs_of_one_prompt(cluster: Cluster, model: Model) -> None:
    got = read(cluster.stream(prompt_of(3), n=16, temperature=1.0, seed=99, max_tokens=12, ignore_eos=True))
    wanted = expected(model, prompt_of(3), n=16, temperature=1.0, seed=99, max_tokens=12)
    assert got.outputs == wanted.outputs
    assert len({tuple(output.tokens) for output in got.outputs.values()}) > 8
    shared = {index: finished.usage.cached_tokens for index, finished in got.finishes.items() if index}
    assert set(shared.values()) == {(len(prompt_of(3)) - 1) // 16 * 16}
    cluster.wait_idle()


def test_outputs_and_probabilities_survive_a_killed_worker(cluster: Cluster, model: Model) -> None:
    """Three outputs with log-probabilities, and the prompt's: continued elsewhere, nothing is told twice or missing."""
    case = {"temperature": 1.0, "seed": 12, "logprobs": 3, "prompt_logprobs": 2, "max_tokens": 24}
    wanted = expected(model, prompt_of(4), n=3, **case)
    for fault in ("token=9:kill", "token=17:kill"):
        before = cluster.workers()["decode-0"]["incarnation"]
        cluster.arm("decode-0", fault)
        got = read(cluster.stream(prompt_of(4), n=3, ignore_eos=True, **case))
        assert got.outputs == wanted.outputs, fault
        assert got.prompt_logprobs == wanted.prompt_logprobs, fault
        assert cluster.workers()["decode-0"]["incarnation"] != before, f"{fault} killed it"
        cluster.wait_idle()
