"""The whole stack over gRPC against transformers in one process, and what a worker's memory is made of."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from tests.cluster.harness import Cluster, running

pytestmark = pytest.mark.bench
CACHE = Path(__file__).parents[2] / ".cache" / "models"
STREAMS, PROMPT, OUTPUT, ROUNDS = 8, 64, 128, 3
THREADS = 2
MIB = 2**20


def prompts(number: int) -> list[list[int]]:
    """Prompts without a common prefix, which no round repeats."""
    return [
        [(number * 997 + each * 131 + 7 * position) % 40000 + 10 for position in range(PROMPT)]
        for each in range(STREAMS)
    ]


def our_rate(cluster: Cluster, number: int) -> float:
    """Output tokens per second of all streams together, from the first call to the last token."""
    with ThreadPoolExecutor(STREAMS) as pool:
        start = time.perf_counter()
        done = list(
            pool.map(lambda ids: cluster.generate(ids, 600.0, max_tokens=OUTPUT, ignore_eos=True), prompts(number))
        )
        took = time.perf_counter() - start
    assert [(each.error, len(each.token_ids)) for each in done] == [(None, OUTPUT)] * STREAMS
    return STREAMS * OUTPUT / took


def their_rate(model: torch.nn.Module, number: int) -> float:
    """The same tokens from one static batch, prefill included on both sides."""
    ids = torch.tensor(prompts(number))
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]
            ids, max_new_tokens=OUTPUT, min_new_tokens=OUTPUT, do_sample=False, pad_token_id=0
        )
    return STREAMS * OUTPUT / (time.perf_counter() - start)


def test_eight_streams_are_faster_than_a_static_batch_of_transformers(tmp_path: Path) -> None:
    torch.set_num_threads(THREADS)
    path = prepare_model(DEFAULT_MODEL, CACHE)
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    pairs = []
    with running(tmp_path / "c", {"model": {"path": str(path), "name": DEFAULT_MODEL}}) as cluster:
        our_rate(cluster, 0)
        for number in range(1, ROUNDS + 1):
            pairs.append((our_rate(cluster, number), their_rate(theirs, number)))
        print_memory(cluster, path)
    torch.set_num_threads(1)
    ratio = statistics.median(ours / other for ours, other in pairs)
    print("\nours, transformers (tok/s): " + ", ".join(f"{one:.1f} {other:.1f}" for one, other in pairs))
    print(f"{STREAMS} streams of {PROMPT} + {OUTPUT} tokens: ratio {ratio:.2f} (median of {ROUNDS})")
    assert ratio >= 1.2


def print_memory(cluster: Cluster, path: Path) -> None:
    """Proportional set size of each worker against weights, pool and 300 MB."""
    weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    pool = 256 * MIB
    for worker_id, row in sorted(cluster.workers().items()):
        pss = psutil.Process(int(row["pid"])).memory_full_info().pss
        print(
            f"{worker_id}: PSS {pss / MIB:.0f} MiB; weights on disk {weights / MIB:.0f}, pool {pool / MIB:.0f}, "
            f"else {(pss - weights - pool) / MIB:.0f}"
        )
        assert pss <= weights + pool + 300 * MIB
