"""Requests through a cluster whose workers have several ranks, against our own loops and the section 7 rule."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.cluster.supervise import worker_processes
from services.core.batch import Row, SampleSpec, ScheduledBatch
from services.engine.model_runner import ModelRunner
from services.pb import inference_pb2, inference_pb2_grpc
from tests.cluster.harness import Cluster, collect, wait_for
from tests.engine.one_request_loop import BLOCK_SIZE, Generated

GREEDY = SampleSpec(0.0, 0)


def prompts(lengths: Sequence[int], vocab: int) -> list[tuple[int, ...]]:
    """Prompts that share no prefix."""
    ids = range(4, vocab)
    return [tuple(ids[(7 + 13 * salt + 31 * place) % len(ids)] for place in range(n)) for salt, n in enumerate(lengths)]


def tp_config(model: Path, prefill: int, decode: int, **others: Any) -> dict[str, Any]:
    """A float32 cluster of one prefill and one decode worker of so many ranks; test hooks on.

    The pools are small: with test hooks a worker checks every block after every event.
    """
    return {
        "model": {"path": str(model), "name": "model", "dtype": "float32"},
        "cache": {"memory_bytes": 2**22},
        "pools": {"prefill": {"tp": prefill}, "decode": {"tp": decode}},
        "testing": {"enabled": True, "logits_digests": True},
        **others,
    }


def alone(runner: ModelRunner, prompt: tuple[int, ...], max_tokens: int) -> Generated:
    """The plainest generation there is, on a runner of any number of ranks."""
    table = tuple(range(-(-(len(prompt) + max_tokens) // BLOCK_SIZE)))
    ids, start = prompt, 0
    tokens: list[int] = []
    digests: list[str] = []
    while len(tokens) < max_tokens:
        output = runner.execute(ScheduledBatch(len(tokens) + 1, (Row("only", ids, start, table, GREEDY),)))
        assert output.error is None, output.error
        assert output.tokens[0] is not None
        tokens.append(output.tokens[0])
        digests.append(output.logits_digests[0])
        start += len(ids)
        ids = (tokens[-1],)
    return Generated(tuple(tokens), tuple(digests))


def generate_all(
    cluster: Cluster, asked: Sequence[tuple[int, ...]], max_tokens: int, names: Sequence[str] = ()
) -> list[tuple[int, ...]]:
    """All prompts at once, each handed over; blocks, leases and transfers are back at the end.

    Args:
        names: request ids; default: by length.
    """
    before = int(cluster.status()["counters"].get("handoff", 0))
    stub = inference_pb2_grpc.InferenceServiceStub(cluster.channel)
    sampling = inference_pb2.Sampling(max_tokens=max_tokens, ignore_eos=True)
    calls = []
    for prompt, name in zip(asked, names or [f"p{len(prompt)}" for prompt in asked], strict=True):
        request = inference_pb2.GenerateRequest(request_id=name, prompt_token_ids=prompt, sampling=sampling)
        calls.append(stub.Generate(request, timeout=240, wait_for_ready=True))
    results = [collect(call) for call in calls]
    assert [result.error for result in results] == [None] * len(results), [result.details for result in results]
    cluster.wait_idle()
    assert int(cluster.status()["counters"]["handoff"]) - before == len(asked)
    return [tuple(result.token_ids) for result in results]


def rank_pids(cluster: Cluster, worker_id: str) -> list[int]:
    """Processes of a worker, rank 0 last."""
    first = int(cluster.workers()[worker_id]["pid"])
    return sorted((each.pid for each in worker_processes(cluster.cluster_id, worker_id)), key=lambda pid: pid == first)


def kill_a_rank(cluster: Cluster, worker_id: str, which: int, blow: signal.Signals = signal.SIGKILL) -> None:
    """Hurt one process of a worker (see `rank_pids`); all of them end, and a whole new worker serves."""
    cluster.wait_serving()
    before = rank_pids(cluster, worker_id)
    os.kill(before[which], blow)
    if blow is signal.SIGSTOP:  # a rank that hangs is noticed in the next step
        cluster.generate([5, 6, 7], max_tokens=3, timeout_s=20)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), 60, "every rank ends")
    wait_for(lambda: int(cluster.workers().get(worker_id, {}).get("pid", before[0])) not in before, 120, "a new worker")
    cluster.wait_serving()
    after = rank_pids(cluster, worker_id)
    assert len(after) == len(before)
    assert not set(after) & set(before)
    cluster.wait_idle()
