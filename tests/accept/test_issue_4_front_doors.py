"""Issue 4: two front doors on one port; a rolling update and a kill -9 under 20 open streams."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from services.pb import cluster_pb2, cluster_pb2_grpc, inference_pb2, inference_pb2_grpc
from tests.cluster.harness import Cluster, running, wait_for

pytestmark = [pytest.mark.accept, pytest.mark.timeout(900)]
CACHE = Path(__file__).parents[2] / ".cache" / "models"
STREAMS, TOKENS = 20, 64


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two front doors; drains wait for as long as the streams take on a busy machine."""
    config = {
        "model": {"path": str(prepare_model(DEFAULT_MODEL, CACHE)), "name": DEFAULT_MODEL},
        "frontdoor": {"replicas": 2, "drain_s": 240.0},
    }
    with running(tmp_path_factory.mktemp("doors"), config) as started:
        yield started


@dataclass
class Open:
    """One running stream on a connection of its own, and the front door that it reached."""

    channel: grpc.Channel
    door: str
    call: Any
    tokens: int = 0
    error: str = ""

    def read(self) -> None:
        """To the end."""
        try:
            for message in self.call:
                self.tokens += len(message.delta.token_ids)
        except grpc.RpcError as error:
            self.error = error.code().name  # type: ignore[attr-defined]


def connect(cluster: Cluster) -> tuple[grpc.Channel, str]:
    """A new connection, and the id of the front door at its other end."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{cluster.grpc_port}", options)
    stub = cluster_pb2_grpc.ClusterServiceStub(channel)
    status = stub.GetStatus(cluster_pb2.GetStatusRequest(), timeout=30, wait_for_ready=True)
    return channel, str(status.front_door)


def doors(cluster: Cluster) -> set[str]:
    """Ids of the front doors that take connections now."""
    found = set()
    for _ in range(12):
        channel, door = connect(cluster)
        found.add(door)
        channel.close()
    return found


def open_streams(cluster: Cluster, salt: int) -> list[Open]:
    """Streams that all have their first tokens."""
    found = []
    for number in range(STREAMS):
        channel, door = connect(cluster)
        request = inference_pb2.GenerateRequest(
            prompt_token_ids=[salt, number, 5, 6, 7],
            sampling=inference_pb2.Sampling(max_tokens=TOKENS, ignore_eos=True),
        )
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(request, timeout=300)
        found.append(Open(channel, door, call))
    for each in found:
        while each.tokens == 0:
            each.tokens += len(next(each.call).delta.token_ids)
    return found


def read_all(streams: list[Open]) -> None:
    """All of them at once, to their ends."""
    with ThreadPoolExecutor(len(streams)) as pool:
        list(pool.map(Open.read, streams))
    for each in streams:
        each.channel.close()


def test_a_rolling_update_fails_no_stream(cluster: Cluster) -> None:
    wait_for(lambda: len(doors(cluster)) == 2, 60, "two front doors on one port")
    before = doors(cluster)
    streams = open_streams(cluster, 100)
    assert {each.door for each in streams} == before
    assert cluster.up is not None
    cluster.up.send_signal(signal.SIGHUP)
    begun = time.monotonic()
    read_all(streams)
    assert [(each.error, each.tokens) for each in streams] == [("", TOKENS)] * STREAMS
    print(f"\n{STREAMS} streams of {TOKENS} tokens, finished {time.monotonic() - begun:.1f} s after the update began")
    wait_for(lambda: len(doors(cluster)) == 2 and not doors(cluster) & before, 120, "two new front doors")
    cluster.wait_idle(10)


def test_a_killed_front_door_costs_its_own_streams_alone(cluster: Cluster) -> None:
    wait_for(lambda: len(doors(cluster)) == 2, 60, "two front doors on one port")
    streams = open_streams(cluster, 200)
    victim = cluster.find("ServeReplica:triptych:frontdoor")[0].pid
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()

    def left() -> int:
        return sum(int(row["running_decodes"]) for row in cluster.workers().values())

    alive_doors = doors(cluster)
    survivors = sum(each.door in alive_doors for each in streams)
    assert 0 < survivors < STREAMS
    wait_for(lambda: left() <= survivors, 8, "the dead front door's requests are cancelled")
    print(
        f"\n{STREAMS - survivors} requests of the dead door cancelled {time.monotonic() - killed:.1f} s after its end"
    )
    read_all(streams)
    for each in streams:
        whole = each.door in alive_doors
        assert (each.error, each.tokens == TOKENS) == ("" if whole else "UNAVAILABLE", whole), each
    wait_for(lambda: len(doors(cluster)) == 2, 120, "the dead front door is replaced")
    cluster.wait_idle(10)
