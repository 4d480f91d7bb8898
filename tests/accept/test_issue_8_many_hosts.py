"""Issue 8: a host with a front door and workers leaves a cluster of the chart's own render; no stream is cut."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from services.cluster.__main__ import listens
from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from services.pb import inference_pb2, inference_pb2_grpc
from tests.cluster.harness import Generation, collect, wait_for
from tests.cluster.many_hosts import FIRST, SECOND, THIRD, ManyHosts

pytestmark = [pytest.mark.accept, pytest.mark.timeout(900)]
CACHE = Path(__file__).parents[2] / ".cache" / "models"
PROMPT = "Count to one hundred."
TOKENS = 64


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[ManyHosts]:
    """A cluster that was just deployed."""
    cluster = ManyHosts(tmp_path, prepare_model(DEFAULT_MODEL, CACHE))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_a_host_leaves_while_a_stream_runs_on_it(hosts: ManyHosts) -> None:
    grpc.channel_ready_future(hosts.channel).result(timeout=240)
    hosts.wait_serving(240.0)
    alone = hosts.generate(PROMPT, max_tokens=TOKENS)
    assert alone.error is None, alone.details
    assert hosts.hosts() == {"prefill-0": FIRST, "decode-0": FIRST}
    for host in (FIRST, SECOND):
        url = f"http://{host}:{hosts.http_port}/readyz"
        assert hosts.run(sys.executable, "-m", "services.cluster", "ready", f"--url={url}").startswith("200")

    hosts.join(THIRD, '{"prefill": 1, "decode": 1}')
    got: list[Generation] = []
    with hosts.channel_to(FIRST) as channel:
        part = inference_pb2.ContentPart(text=PROMPT)
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(
            inference_pb2.GenerateRequest(
                messages=[inference_pb2.Message(role="user", content=[part])],
                sampling=inference_pb2.Sampling(max_tokens=TOKENS),
                include_timeline=True,
            ),
            timeout=240,
        )
        stream = threading.Thread(target=lambda: got.append(collect(call)))
        stream.start()
        wait_for(lambda: int(hosts.workers()["decode-0"]["running_decodes"]) == 1, 60.0, "the stream decodes")
        hosts.leave(FIRST, "frontdoor")
        stream.join(timeout=120)

    assert got[0].error is None, got[0].details
    assert got[0].token_ids == alone.token_ids  # neither cut nor retried elsewhere
    assert not listens(FIRST, hosts.grpc_port)
    assert not listens(FIRST, hosts.http_port)
    hosts.wait_serving(240.0)
    assert hosts.hosts() == {"prefill-0": THIRD, "decode-0": THIRD}
    assert hosts.generate(PROMPT, max_tokens=TOKENS).token_ids == alone.token_ids
