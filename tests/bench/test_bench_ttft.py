"""What the front door and the router add to the time to first token on an idle cluster, through both doors."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from pathlib import Path

import pytest

from services.pb import inference_pb2, inference_pb2_grpc
from tests.cluster.harness import Cluster, running
from tests.cluster.test_lifecycle import tiny_config

pytestmark = pytest.mark.bench
RUNS, WARM_UP = 60, 10
MAX_ADDED_MS = 8.0
PROMPT_TOKENS = 64


def prompt(number: int) -> list[int]:
    """Token ids that no other request shares."""
    return [number % 300 + 10, *((7 * i + number) % 300 + 10 for i in range(PROMPT_TOKENS - 1))]


def over_grpc(cluster: Cluster, number: int) -> tuple[float, float]:
    """(time to first token as the client sees it, of that from the worker's receipt to the end of prefill), ms."""
    stub = inference_pb2_grpc.InferenceServiceStub(cluster.channel)
    sampling = inference_pb2.Sampling(max_tokens=2, ignore_eos=True)
    request = inference_pb2.GenerateRequest(prompt_token_ids=prompt(number), sampling=sampling, include_timeline=True)
    sent = time.perf_counter()
    first_ms = worker_ms = 0.0
    for message in stub.Generate(request, timeout=60):
        kind = message.WhichOneof("event")
        if kind == "delta" and not first_ms:
            first_ms = (time.perf_counter() - sent) * 1e3
        elif kind == "finished":
            at_ms = {each.name: each.offset_us / 1000 for each in message.finished.timeline}
            worker_ms = at_ms["prefill_end"] - at_ms["queued"]
    return first_ms, worker_ms


def over_http(connection: http.client.HTTPConnection, number: int) -> float:
    """Time to first token as the client sees it, ms."""
    body = {"model": "tiny", "prompt": prompt(number), "max_tokens": 2, "ignore_eos": True, "stream": True}
    sent = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    while not answer.readline().startswith(b"data: {"):
        pass
    first_ms = (time.perf_counter() - sent) * 1e3
    answer.read()
    return first_ms


def test_the_front_door_and_the_router_add_at_most_eight_milliseconds(tmp_path: Path) -> None:
    """Everything but the worker's own queue and prefill counts as added: parsing, routing, Ray both ways, framing."""
    with running(tmp_path / "c", tiny_config(tmp_path)) as cluster:
        connection = http.client.HTTPConnection("127.0.0.1", cluster.http_port, timeout=60)
        grpc_ms, worker_ms, http_ms = [], [], []
        for number in range(RUNS + WARM_UP):
            first, worker = over_grpc(cluster, 2 * number)
            grpc_ms.append(first - worker)
            worker_ms.append(worker)
            time.sleep(0.05)
            http_ms.append(over_http(connection, 2 * number + 1))
            time.sleep(0.05)
        connection.close()
    grpc_added, worker_took, http_first = (
        statistics.median(values[WARM_UP:]) for values in (grpc_ms, worker_ms, http_ms)
    )
    http_added = http_first - worker_took
    print(
        f"\nidle cluster, {PROMPT_TOKENS} tokens: worker {worker_took:.1f} ms; added over gRPC {grpc_added:.1f} ms, "
        f"over HTTP {http_added:.1f} ms"
    )
    assert grpc_added <= MAX_ADDED_MS
    assert http_added <= MAX_ADDED_MS
