"""Issue 4, gRPC through a whole cluster: ends of calls at every stage; TLS, keys, drain, scale and events."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from services.cli.client import access, open_channel
from services.core.clock import NS_PER_MS
from services.core.codec import decode
from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from services.frontdoor.auth import hash_key
from services.pb import cluster_pb2, cluster_pb2_grpc, inference_pb2, inference_pb2_grpc
from tests.api.certificates import write_certificate
from tests.cluster.conftest import cluster_config
from tests.cluster.harness import Cluster, collect, running, wait_for
from tests.cluster.test_lifecycle import tiny_config

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1200)]
CACHE = Path(__file__).parents[2] / ".cache" / "models"
Code = grpc.StatusCode


# --- ends of calls at every stage ---------------------------------------------------------------------------------

LATEST_NS = 100 * NS_PER_MS
"""No step that begins later than this after the end was received may contain the request."""


@dataclass(frozen=True)
class Stage:
    """Where a request is when it ends.

    Attributes:
        prompt: length in tokens.
        after_tokens: output tokens that the client has; 0: none.
        after_s: wait beyond that.
        blocked: another long prompt comes first.
    """

    prompt: int
    after_tokens: int
    after_s: float
    blocked: bool = False


STAGES = {
    "waiting": Stage(100, 0, 0.05, blocked=True),
    "prefill": Stage(1500, 0, 0.5),
    "handoff": Stage(600, 1, 0.0),
    "decode": Stage(40, 6, 0.0),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A float32 cluster whose decisions are recorded."""
    folder = tmp_path_factory.mktemp("grpc")
    with running(folder, cluster_config(prepare_model(DEFAULT_MODEL, CACHE), folder)) as started:
        assert started.generate([1, 2, 3], max_tokens=4).error is None
        yield started


class Prompts:
    """Prompts that share no prefix."""

    def __init__(self) -> None:
        self.made = 0

    def next(self, size: int) -> list[int]:
        self.made += 1
        return [1000 + self.made, *(20 + (self.made * 7 + n) % 400 for n in range(size - 1))]


PROMPTS = Prompts()


def call(cluster: Cluster, name: str, prompt: list[int], timeout_s: float) -> Any:
    """A running Generate call of that id."""
    request = inference_pb2.GenerateRequest(
        request_id=name,
        prompt_token_ids=prompt,
        sampling=inference_pb2.Sampling(max_tokens=120, ignore_eos=True),
    )
    return inference_pb2_grpc.InferenceServiceStub(cluster.channel).Generate(request, timeout=timeout_s)


def reach(running_call: Any, stage: Stage) -> float:
    """Read until the stage is reached; seconds since the call began."""
    begun, tokens = time.monotonic(), 0
    for message in running_call:
        tokens += len(message.delta.token_ids)
        if tokens >= stage.after_tokens:
            time.sleep(stage.after_s)
            return time.monotonic() - begun
    raise AssertionError("the call ended before that")


def entries(folder: Path) -> list[dict[str, Any]]:
    """Entries of all decision logs, with `log`: the kind of the machine."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        kind = json.loads(lines[0])["kind"]
        for line in lines[1:]:
            try:
                found.append({**json.loads(line), "log": kind})
            except ValueError:
                break  # the line that is being written
    return found


def ended_and_last_step(folder: Path, name: str) -> tuple[int, int | None]:
    """When the end of a request was received, and when the last step with it began; all on the host's one clock."""
    ended, last = None, None
    for entry in entries(folder):
        event = entry["event"]
        if entry["log"] == "flow" and event["_"] == "Cancel" and event["request_id"] == name:
            ended = min(entry["now"], ended or entry["now"])
        if entry["log"] == "flow" and event["_"] == "Submit" and event["request"]["request_id"] == name:
            deadline = event["deadline_ns"]
            ended = min(deadline, ended or deadline)
        for action in entry["actions"]:
            if action["_"] == "RunStep" and any(row.request_id == name for row in decode(action["batch"]).rows):
                last = max(entry["now"], last or 0)
    assert ended is not None, f"{name} is in no log of the request flow"
    return ended, last


@pytest.mark.parametrize("way", ["cancel", "method", "deadline"])
@pytest.mark.parametrize("name", STAGES)
def test_an_end_stops_its_steps_and_frees_its_blocks(cluster: Cluster, name: str, way: str) -> None:
    stage = STAGES[name]
    timeout_s = 120.0
    if way == "deadline":  # how long it takes to get there is what an equal request took
        before = call(cluster, f"{name}.probe", PROMPTS.next(stage.prompt), 120.0)
        timeout_s = reach(before, stage) + 0.02
        before.cancel()
        cluster.wait_idle(10)
    blocker = call(cluster, f"{name}.{way}.blocker", PROMPTS.next(1500), 120.0) if stage.blocked else None
    request_id = f"{name}.{way}"
    victim = call(cluster, request_id, PROMPTS.next(stage.prompt), timeout_s)
    if way != "deadline":
        reach(victim, stage)
    if way == "cancel":
        victim.cancel()
    elif way == "method":
        stub = inference_pb2_grpc.InferenceServiceStub(cluster.channel)
        assert stub.CancelGeneration(inference_pb2.CancelGenerationRequest(request_id=request_id)).cancelled
    got = collect(victim)
    assert got.error is (Code.DEADLINE_EXCEEDED if way == "deadline" else Code.CANCELLED)
    if blocker is not None:
        blocker.cancel()
    cluster.wait_idle(3.0 if blocker is None else 10.0)
    ended, last = ended_and_last_step(cluster.folder / "decisions", request_id)
    after = None if last is None else (last - ended) / NS_PER_MS
    print(f"\n{name:8} {way:8} last step began {'never' if after is None else f'{after:8.1f} ms after the end'}")
    assert last is None or last - ended <= LATEST_NS


# --- TLS, keys, drain, scale, events --------------------------------------------------------------------------------


def write_keys(folder: Path, *keys: str) -> dict[str, str]:
    """Admin keys of one tenant; the config of the door."""
    rows = [{"id": key, "sha256": hash_key(key), "tenant": "ops", "role": "admin"} for key in keys]
    part = folder / "keys.part"
    part.write_text(yaml.safe_dump({"keys": rows}))
    part.replace(folder / "keys.yaml")
    (folder / "secret").write_bytes(b"s" * 64)
    return {"keys_file": str(folder / "keys.yaml"), "secret_file": str(folder / "secret")}


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A tiny cluster with TLS and keys."""
    folder = tmp_path_factory.mktemp("secure")
    cert_file, key_file, _ = write_certificate(folder, "door.test")
    config = {**tiny_config(folder), "testing": {"enabled": True}}
    config["frontdoor"] = {
        "tls": {"cert_file": cert_file, "key_file": key_file},
        "auth": write_keys(folder, "first"),
        "worker_lost_s": 60.0,  # stalls keep streams open here, and nobody shall take them for deaths
    }
    config["controller"] = {"ping_timeout_s": 60.0}
    config["router"] = {"move_silent_s": 60.0, "stale_report_s": 60.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "api_key", "first")
        patch.setattr(access, "ca_file", Path(cert_file))
        patch.setenv("TRIPTYCH_API_KEY", "first")
        patch.setenv("TRIPTYCH_CA_FILE", cert_file)
        with running(folder / "c", config) as started:
            started._channel = open_channel(f"127.0.0.1:{started.grpc_port}")
            started.secrets = folder  # type: ignore[attr-defined]
            yield started


def watch(cluster: Cluster, told: list[cluster_pb2.WatchEventsResponse], begun: threading.Event) -> None:
    """Collect events until the controller or the test ends it."""
    stub = cluster_pb2_grpc.ClusterServiceStub(cluster.channel)
    events = stub.WatchEvents(cluster_pb2.WatchEventsRequest(), timeout=120)
    events.initial_metadata()
    begun.set()
    try:
        for event in events:
            told.append(event)
    except grpc.RpcError:
        return


def test_drain_and_scale_under_a_stream_outlive_the_controller(secure: Cluster) -> None:
    stub = cluster_pb2_grpc.ClusterServiceStub(secure.channel)
    told: list[cluster_pb2.WatchEventsResponse] = []
    begun = threading.Event()
    threading.Thread(target=watch, args=(secure, told, begun), daemon=True).start()
    assert begun.wait(10)
    scaled = stub.ScalePool(cluster_pb2.ScalePoolRequest(pool="decode", replicas=2))
    assert list(scaled.worker_ids) == ["decode-0", "decode-1"]
    wait_for(lambda: "decode-1" in secure.workers(), 60, "decode-1 reports")
    secure.arm("decode-0", "token=10:stall=3")  # so that the drain finds its streams running
    streams = [secure.stream([5, 6, 7, n], max_tokens=100, ignore_eos=True) for n in range(4)]
    for stream in streams:
        next(iter(stream))
    stub.DrainWorker(cluster_pb2.DrainWorkerRequest(worker_id="decode-0"))
    ends = [collect_rest(stream) for stream in streams]
    assert ends == [None] * 4, "streams of a worker that drains finish"
    wait_for(lambda: sorted(secure.workers()) == ["decode-1", "prefill-0"], 60, "decode-0 is gone")
    assert secure.generate([9, 9, 9], max_tokens=5, ignore_eos=True).error is None
    kinds = [(cluster_pb2.EventKind.Name(event.kind)[11:], event.worker_id) for event in told]
    assert [kind for kind, worker in kinds if worker == "decode-1"] == ["STARTING", "UP"]
    assert [kind for kind, worker in kinds if worker == "decode-0"] == ["DRAINING", "DOWN"]
    before = {name: row["incarnation"] for name, row in secure.workers().items()}
    (controller,) = secure.find("ServeReplica:control:controller")
    controller.kill()
    seen = told[-1].sequence

    def gap() -> bool:
        events = stub.WatchEvents(cluster_pb2.WatchEventsRequest(after_sequence=seen), timeout=5)
        try:
            return bool(next(iter(events)).kind == cluster_pb2.EVENT_KIND_GAP)
        except grpc.RpcError:
            return False

    wait_for(gap, 90, "another controller, which says that events were lost")
    time.sleep(8)  # long enough for a controller that wants other workers to launch or stop them
    assert {name: row["incarnation"] for name, row in secure.workers().items()} == before
    assert secure.generate([9, 9, 8], max_tokens=5, ignore_eos=True).error is None


def collect_rest(stream: Any) -> Code | None:
    """How a stream that was begun ends."""
    try:
        for _ in stream:
            pass
    except grpc.RpcError as error:
        return error.code()  # type: ignore[no-any-return, attr-defined]
    return None


def test_keys_and_certificate_change_under_a_stream(secure: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = secure.secrets  # type: ignore[attr-defined]
    assert secure.status()["ready"], "the command line has the key and trusts the certificate"
    (decode,) = (name for name in secure.workers() if name.startswith("decode"))
    secure.arm(decode, "token=10:stall=8")
    stream = secure.stream([5, 6, 7], max_tokens=110, ignore_eos=True)
    next(iter(stream))
    write_keys(folder, "second")
    write_certificate(folder, "later.test")
    address = f"127.0.0.1:{secure.grpc_port}"
    with monkeypatch.context() as patch:
        patch.setattr(access, "api_key", "second")

        def changed() -> bool:
            with open_channel(address) as channel:  # trusts what stands in the file now
                stub = inference_pb2_grpc.InferenceServiceStub(channel)
                try:
                    return bool(stub.ListModels(inference_pb2.ListModelsRequest(), timeout=5).models)
                except grpc.RpcError:
                    return False

        wait_for(changed, 15, "the new key over the new certificate")
        with open_channel(address) as channel:
            status = cluster_pb2_grpc.ClusterServiceStub(channel).GetStatus(cluster_pb2.GetStatusRequest())
        assert status.running_requests == 1, "the stream began under the first key and runs on"
    with pytest.raises(grpc.RpcError) as caught:
        inference_pb2_grpc.InferenceServiceStub(secure.channel).ListModels(inference_pb2.ListModelsRequest())
    assert caught.value.code() is Code.UNAUTHENTICATED, "the first key, on the connection that was there before"
    assert collect_rest(stream) is None
    write_keys(folder, "first", "second")  # for the tests that come after
