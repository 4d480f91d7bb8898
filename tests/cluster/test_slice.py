"""One prompt through two processes: what a user sees, and that it is what a plain loop computes."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
import torch

from services.engine.model import Model
from services.engine.weights import load_tensors
from tests.cluster.harness import Cluster, collect, wait_for
from tests.engine.one_request_loop import generate
from tests.engine.reference_rule import PROMPTS, Reference, assert_rule

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    """The same model in this process."""
    torch.set_num_threads(1)
    return Model(*load_tensors(model_folder), "float32")


@pytest.fixture(scope="module")
def reference(model_folder: Path) -> Reference:
    """The same model in the transformers library."""
    return Reference(model_folder)


def test_the_first_request_anyone_sends(cluster: Cluster) -> None:
    got = cluster.generate("What is the capital of France? Answer in one sentence.")
    assert got.text == "The capital of France is Paris."


def test_prefill_and_decode_are_different_processes(cluster: Cluster) -> None:
    got = cluster.generate("Name three colours.", max_tokens=6)
    where = {name: (worker, pid) for name, worker, pid in got.timeline}
    workers = cluster.workers()
    assert where["prefill_end"] == ("prefill-0", int(workers["prefill-0"]["pid"]))
    assert where["handoff_committed"] == where["decode_start"] == ("decode-0", int(workers["decode-0"]["pid"]))
    assert where["prefill_end"][1] != where["decode_start"][1]
    names = [name for name, _, _ in got.timeline]
    order = ["received", "dispatched", "prefill_start", "prefill_end", "handoff_granted", "decode_start", "finished"]
    assert [name for name in names if name in order] == order


def test_status_shows_two_workers_whose_blocks_fill_and_empty(cluster: Cluster) -> None:
    rows = {row["id"]: row for row in cluster.status()["workers"]}
    assert {row["role"] for row in rows.values()} == {"prefill", "decode"}
    assert len({row["pid"] for row in rows.values()}) == len({row["incarnation"] for row in rows.values()}) == 2
    assert all(int(row["kv_blocks_total"]) > 0 for row in rows.values())
    call = cluster.stream([5] * 40, max_tokens=150, ignore_eos=True)
    wait_for(lambda: int(cluster.workers()["decode-0"]["kv_blocks_used"]) > 0, 60, "decode holds blocks")
    collect(call)
    cluster.wait_idle()


def test_tokens_are_those_of_a_one_request_loop(cluster: Cluster, model: Model, reference: Reference) -> None:
    stop = model.shape.eos_token_ids
    for text, temperature, seed in ((PROMPTS[1], 0.0, 0), (PROMPTS[9], 0.0, 0), (PROMPTS[3], 0.8, 1234)):
        prompt = reference.chat_prompt(text)
        got = cluster.generate(text, temperature=temperature, seed=seed, max_tokens=24)
        alone = generate(model, prompt, 24, temperature, seed, stop)
        assert got.prompt_tokens == len(prompt)
        assert tuple(got.token_ids) == alone.tokens


def test_greedy_output_agrees_with_transformers(cluster: Cluster, reference: Reference) -> None:
    calls = {text: cluster.stream(text, max_tokens=16) for text in PROMPTS[:5]}
    results = {text: collect(call) for text, call in calls.items()}
    assert all(got.error is None for got in results.values())
    assert_rule(
        {
            text: reference.divergences(reference.chat_prompt(text), tuple(got.token_ids))
            for text, got in results.items()
        }
    )


def test_long_prompts_are_sent_while_they_are_computed(cluster: Cluster, model: Model) -> None:
    prompt = [(7 * i) % 1000 + 10 for i in range(1100)]
    got = cluster.generate(prompt, max_tokens=4, ignore_eos=True)
    assert tuple(got.token_ids) == generate(model, tuple(prompt), 4).tokens
    again = cluster.generate(prompt, max_tokens=4, ignore_eos=True)
    assert again.token_ids == got.token_ids
    assert again.cached_tokens == 1088, "all full blocks but the one of the last token"
    cluster.wait_idle()


def test_cancel_and_deadline_release_everything(cluster: Cluster) -> None:
    call = cluster.stream([9] * 300, max_tokens=500, ignore_eos=True)
    next(iter(call))
    call.cancel()
    cluster.wait_idle()
    late = cluster.generate([9] * 30, timeout_s=1.0, max_tokens=1000, ignore_eos=True)
    assert late.error is grpc.StatusCode.DEADLINE_EXCEEDED
    cluster.wait_idle()


def test_chat_prints_the_answer(cluster: Cluster) -> None:
    done = cluster.cli("chat", "What is the capital of France? Answer in one sentence.", "--temperature", "0")
    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris." in done.stdout


def test_what_cannot_be_served_is_refused_with_the_field(cluster: Cluster) -> None:
    got = cluster.generate([1] * 9000)
    assert got.error is grpc.StatusCode.INVALID_ARGUMENT
    assert "8192" in got.details or "max" in got.details
    got = cluster.generate([1], temperature=7.0)
    assert got.error is grpc.StatusCode.INVALID_ARGUMENT
    assert "temperature" in got.details


def test_status_of_a_cluster_that_is_not_there(cluster: Cluster) -> None:
    del cluster
    import subprocess

    from tests.cluster.harness import TRIPTYCH, free_port

    done = subprocess.run(
        [TRIPTYCH, "status", "--json", "--server", f"127.0.0.1:{free_port()}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "triptych up" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout or json.loads(done.stdout)
