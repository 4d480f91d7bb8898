"""Issue 3, bits: whatever shares a request's steps and wherever it goes, its logits are those of the plain loop.

The default model runs all 40 prompts of 5 to 3,000 tokens in every combination of concurrency and chunk size, with
the other conditions rotating through them; a tiny model runs every combination of those and of the discipline and
prefix hits. Alone, the default model takes a fifth of the prompts: one request a step is what the reference does.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from services.engine.model import Model
from services.engine.tiny import tiny_model
from services.engine.weights import load_tensors
from services.pb import inference_pb2, inference_pb2_grpc
from tests.accept.saved import Saved
from tests.cluster.conftest import cluster_config
from tests.cluster.harness import Cluster, collect, running
from tests.engine.bits import ENGINE, EVERYTHING, GROUP, Bench, Job, Plan, code_digest, evidence, make_jobs
from tests.engine.one_request_loop import Generated

pytestmark = [pytest.mark.accept, pytest.mark.timeout(7200)]
ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "models"
LENGTHS = (
    *(5, 6, 7, 9, 12, 15, 16, 17, 20, 24, 28, 31, 32, 33, 40, 47, 48, 56, 63, 64),
    *(65, 72, 80, 96, 100, 112, 127, 128, 129, 150, 180, 220, 256, 300, 370, 450),
    *(600, 900, 1500, 3000),
)
OUTPUT_TOKENS = 64
POOL_TOKENS = 8192
TROUBLES = ("", "preempted", "continued", "local")


def default_plans() -> list[Plan]:
    """Every concurrency with every chunk size, one condition each; all conditions occur at 8 and at 16 at once."""
    conditions = [(False, False, ""), (True, True, ""), (True, False, "continued")]
    conditions += [(False, True, "preempted"), (True, False, ""), (False, True, "continued")]
    conditions += [(True, True, "preempted"), (False, False, "local"), (False, True, "")]
    shapes = itertools.product((1, 8, 16), (16, 64, None))
    return [Plan(*shape, *condition) for shape, condition in zip(shapes, conditions, strict=True)]


def tiny_plans() -> list[Plan]:
    """Every combination of concurrency, chunk size, discipline and prefix cache, the troubles in rotation."""
    shapes = itertools.product((1, 8, 16), (16, 64, None), (False, True), (False, True))
    return [Plan(*shape, TROUBLES[(number + number // 4) % 4]) for number, shape in enumerate(shapes)]


def references(saved: Saved, model: Model, jobs: Sequence[Job]) -> list[Generated]:
    """What the plain loop computes, from the file where it was computed before."""
    found = []
    for number, job in enumerate(jobs):

        def compute(job: Job = job) -> list[list[Any]]:
            generated = job.reference(model)
            return [list(generated.tokens), list(generated.digests)]

        tokens, digests = saved.get(f"reference {job.name}", compute)
        found.append(Generated(tuple(tokens), tuple(digests)))
        print(f"\rreference {number + 1} of {len(jobs)}", end="", flush=True)
    print()
    return found


def run_plans(name: str, model: Model, plans: Sequence[Plan], output_tokens: int, alone: int) -> None:
    """Run plans, those that were not run before, and assert that no bit differs and that everything happened.

    Args:
        alone: the share of prompts that runs one at a time is 1/alone.
    """
    torch.set_num_threads(1)
    saved = Saved(f"issue_3_bits_{name}", code_digest(ROOT, EVERYTHING))
    jobs = make_jobs(LENGTHS, model.shape.vocab, output_tokens)
    wanted = references(Saved(f"issue_3_references_{name}", code_digest(ROOT, ENGINE)), model, jobs)
    bench = Bench(model, POOL_TOKENS)
    failures = []
    for number, plan in enumerate(plans):
        # Whole groups of prompts that begin alike, the longest among them.
        chosen = [i for i in range(len(jobs)) if plan.at_once > 1 or i // GROUP % alone == alone - 1]

        def compute(plan: Plan = plan, chosen: list[int] = chosen) -> dict[str, Any]:
            started = time.monotonic()
            outcome = bench.run(plan, [jobs[i] for i in chosen], [wanted[i] for i in chosen])
            missing = evidence(plan, outcome)
            return {**asdict(outcome), "not_shown": missing, "seconds": round(time.monotonic() - started, 1)}

        result = saved.get(plan.name, compute)
        facts = {key: value for key, value in result.items() if value and key != "wrong"}
        print(f"{name} {number + 1}/{len(plans)} {plan.name}: {len(result['wrong'])} wrong, {facts}", flush=True)
        failures += [f"{plan.name}: {line}" for line in result["wrong"]]
        failures += [f"{plan.name}: no {what}" for what in result["not_shown"]]
    assert not failures, "\n".join(failures)


def test_the_default_model_in_every_concurrency_and_chunk_size() -> None:
    model = Model(*load_tensors(prepare_model(DEFAULT_MODEL, CACHE)), "float32")
    run_plans("default", model, default_plans(), OUTPUT_TOKENS, alone=5)


def test_a_tiny_model_in_every_combination() -> None:
    run_plans("tiny", Model(*tiny_model(max_position=4096), "float32"), tiny_plans(), 48, alone=2)


def recorded_digests(folder: Path) -> dict[str, dict[int, str]]:
    """Digests by request and output index, from the decision logs of the workers."""
    found: dict[str, dict[int, str]] = {}
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines()[1:]:
            for action in json.loads(line).get("actions", ()):
                for output in action.get("outputs", ()) if action["_"] == "Emit" else ():
                    of_request = found.setdefault(output["request_id"], {})
                    of_request |= dict(enumerate(output["logits_digests"], start=output["index"]))
    return found


def check_cluster(cluster: Cluster, jobs: Sequence[Job], wanted: Sequence[Generated]) -> None:
    """All jobs at once through real processes and gloo."""
    stub = inference_pb2_grpc.InferenceServiceStub(cluster.channel)
    calls = []
    for job in jobs:
        sampling = inference_pb2.Sampling(
            max_tokens=job.max_tokens, temperature=job.temperature, seed=job.seed, ignore_eos=True
        )
        request = inference_pb2.GenerateRequest(
            request_id=job.name, prompt_token_ids=job.prompt, sampling=sampling, include_timeline=True
        )
        calls.append(stub.Generate(request, timeout=240, wait_for_ready=True))
    results = [collect(call) for call in calls]
    cluster.wait_idle()
    digests = recorded_digests(cluster.folder / "decisions")
    for job, result, reference in zip(jobs, results, wanted, strict=True):
        assert result.error is None, result.details
        assert tuple(result.token_ids) == reference.tokens, job.name
        assert tuple(digests[job.name][index] for index in range(job.max_tokens)) == reference.digests, job.name


def test_the_same_bits_through_real_processes(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = prepare_model(DEFAULT_MODEL, CACHE)
    model = Model(*load_tensors(folder), "float32")
    jobs = make_jobs((5, 17, 40, 64, 80, 130, 200, 333), model.shape.vocab, 24, seed=1)
    wanted = references(Saved("issue_3_references_cluster", code_digest(ROOT, ENGINE)), model, jobs)
    config = cluster_config(folder, tmp_path) | {
        "testing": {"enabled": True, "logits_digests": True},
        "router": {"early_grant_tokens": 100, "local_prefill": "cheaper", "local_prefill_max_tokens": 20},
        "scheduler": {"max_chunk_tokens": 64, "prefill_tile_tokens": 16},
    }
    with running(tmp_path, config) as cluster:
        check_cluster(cluster, jobs, wanted)
        counters = cluster.status()["counters"]
        print(counters)
        assert counters["handoff"] > 0
        assert counters["local_prefill/cheaper"] > 0
