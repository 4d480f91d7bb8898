"""What stands around the main service: status, health, reflection, HTTP, shared ports, and the proto files."""

import asyncio
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services.core.config import ModelConfig
from services.core.errors import ModelError, PortBusyError
from services.frontdoor.app import load_model
from services.pb import cluster_pb2
from tests.api.harness import ask, serving
from tests.unit.frontdoor.fakes import BOTH, DECODE, PREFILL
from tests.unit.frontdoor.vocabularies import byte_level_folder, write_json

ROOT = Path(__file__).resolve().parents[2]
INFERENCE = "triptych.v1.InferenceService"
Status = health_pb2.HealthCheckResponse


async def health_of(channel: grpc.aio.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_status_lists_the_last_reports(tmp_path: Path) -> None:
    async with serving(tmp_path, cluster_id="c1") as served:
        async for _ in served.inference.Generate(ask("echo.1")):
            pass
        status = await served.cluster.GetStatus(cluster_pb2.GetStatusRequest())
        assert (status.cluster_id, status.version, status.model) == ("c1", "1.2.3", "tiny")
        assert (status.front_door, status.ready, status.running_requests) == ("frontdoor-1", True, 0)
        assert dict(status.counters) == {"handoff": 3, "retried/worker_lost": 1}
        decode, prefill = status.workers
        assert (decode.id, decode.role, prefill.id, prefill.role) == ("decode-0", "decode", "prefill-0", "prefill")
        assert (prefill.incarnation, prefill.pid, prefill.pool) == (PREFILL.incarnation, 11, "prefill")
        assert (prefill.kv_blocks_total, prefill.kv_blocks_used, prefill.kv_blocks_cached) == (100, 3, 2)
        assert (prefill.queued_prefill_tokens, prefill.running_decodes) == (5, 1)
        assert (prefill.leases, prefill.transfers, prefill.tasks, prefill.draining) == (1, 1, 4, False)
        assert (prefill.waiting_offers, prefill.back_pressure) == (2, "blocks")
        assert dict(prefill.counters) == {"preempted/no_blocks": 7}
        assert (prefill.dispatches, decode.dispatches) == (1, 0)
        assert json_format.MessageToDict(prefill)["incarnation"] == "11"


async def test_health_follows_the_workers_and_the_drain(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for service in ("", INFERENCE, "triptych.v1.ClusterService"):
            assert await health_of(served.channel, service) == Status.SERVING
        served.workers.report(DECODE, draining=True)
        await served.servers.show_readiness()
        assert await health_of(served.channel) == Status.NOT_SERVING
        served.workers.report(*BOTH)
        await served.servers.show_readiness()
        assert await health_of(served.channel) == Status.SERVING
        await served.servers.show_draining()
        assert await health_of(served.channel, INFERENCE) == Status.NOT_SERVING


def generate_by_reflection(address: str) -> list[dict[str, object]]:
    """A client that has no generated code: everything it knows it learns from the server."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {INFERENCE, "triptych.v1.ClusterService", "grpc.health.v1.Health"} <= set(database.get_services())
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName(INFERENCE).FindMethodByName("Generate")
        request_type = message_factory.GetMessageClass(method.input_type)
        response_type = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_stream(
            f"/{INFERENCE}/Generate",
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString,
        )
        request = json_format.ParseDict(
            {"requestId": "echo.1", "messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, request_type()
        )
        return [json_format.MessageToDict(message) for message in call(request)]


async def test_a_client_that_knows_only_reflection_can_generate(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        messages = await asyncio.to_thread(generate_by_reflection, f"127.0.0.1:{served.servers.grpc_port}")
        assert messages[0]["started"]["requestId"] == "echo.1"
        assert messages[-1]["usage"]["outputTokens"] == 40
        assert "Hi" in "".join(message.get("delta", {}).get("text", "") for message in messages)


async def test_reflection_can_be_switched_off(tmp_path: Path) -> None:
    async with serving(tmp_path, reflection=False) as served:
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(generate_by_reflection, f"127.0.0.1:{served.servers.grpc_port}")
        assert await health_of(served.channel) == Status.SERVING


async def test_http_health_and_errors(tmp_path: Path) -> None:
    async with serving(tmp_path, cluster_id="c1") as served:
        base = f"http://127.0.0.1:{served.servers.http_port}"
        async with httpx.AsyncClient(base_url=base) as client:
            for path in ("/health", "/livez", "/readyz"):
                answer = await client.get(path)
                assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
            assert (await client.get("/version")).json() == {"version": "1.2.3", "cluster_id": "c1"}
            served.workers.report(PREFILL, draining=True)
            assert [(await client.get(path)).status_code for path in ("/health", "/readyz", "/livez")] == [
                503,
                503,
                200,
            ]
            for method, path, status, code in (
                ("GET", "/nothing", 404, "not_found"),
                ("POST", "/health", 405, "method_not_allowed"),
                ("GET", "/docs", 404, "not_found"),
            ):
                answer = await client.request(method, path)
                assert answer.status_code == status
                error = answer.json()["error"]
                assert set(error) == {"message", "type", "param", "code"}
                assert error["code"] == code
                assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
                assert f"{method} {path}" in error["message"]
        await served.servers.check()


async def test_replicas_of_one_cluster_share_ports_and_strangers_are_named(tmp_path: Path) -> None:
    async with serving(tmp_path, cluster_id="c1") as first:
        ports = {"grpc_port": first.servers.grpc_port, "http_port": first.servers.http_port}
        async with serving(tmp_path, cluster_id="c1", **ports) as second:
            assert second.servers.grpc_port == first.servers.grpc_port
            await second.servers.check()
        with pytest.raises(PortBusyError, match=r"frontdoor\.grpc_port = \d+: held by pid \d+ \(.*python"):
            async with serving(tmp_path, cluster_id="c2", **ports):
                pass
        with pytest.raises(PortBusyError, match=r"frontdoor\.http_port = \d+: held by pid"):
            async with serving(tmp_path, cluster_id="c2", http_port=ports["http_port"]):
                pass


async def test_a_port_of_something_else_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        refused = pytest.raises(PortBusyError, match="stop it or choose another port")
        with refused:
            async with serving(tmp_path, grpc_port=holder.getsockname()[1]):
                pass


async def test_a_stopped_server_is_not_healthy(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.servers.stop()
        with pytest.raises(OSError, match="ended"):
            await served.servers.check()


def test_a_model_folder_gives_limits_and_a_root(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path)
    model = load_model(ModelConfig(path="a/tiny", dtype="float16"), folder, 16)
    assert (model.name, model.max_len_tokens, model.vocab_size) == ("tiny", 128, 261)
    assert load_model(ModelConfig(path="tiny", max_model_len_tokens=64), folder, 16).max_len_tokens == 64
    roots = {
        load_model(ModelConfig(path="tiny", dtype=dtype), folder, 16).root_of(b"salt")
        for dtype in ("float16", "float32")
    }
    roots.add(load_model(ModelConfig(path="tiny"), folder, 32).root_of(b"salt"))
    (folder / "model.safetensors").write_bytes(b"x")
    roots.add(load_model(ModelConfig(path="tiny"), folder, 16).root_of(b"salt"))
    roots.add(load_model(ModelConfig(path="tiny"), folder, 16).root_of(b"other"))
    assert len(roots) == 5
    assert model.eos_token_ids == (2,)
    write_json(folder / "generation_config.json", {"eos_token_id": [0, 2]})
    assert load_model(ModelConfig(path="tiny"), folder, 16).eos_token_ids == (0, 2)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json: missing"):
        load_model(ModelConfig(path="tiny"), folder, 16)


def test_buf_finds_nothing_in_the_proto_files() -> None:
    buf = Path(sys.executable).with_name("buf")
    run = subprocess.run([buf, "lint", ROOT / "proto"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_proto_files_break_no_client_of_the_baseline(tmp_path: Path) -> None:
    def broken(folder: Path) -> str:
        buf = Path(sys.executable).with_name("buf")
        command = [buf, "breaking", folder, "--against", ROOT / "proto" / "baseline.binpb"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    assert broken(ROOT / "proto") == ""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    file = tmp_path / "proto" / "triptych" / "v1" / "inference.proto"
    file.write_text(file.read_text().replace("optional uint32 ttft_slo_ms = 20;", ""))
    assert "ttft_slo_ms" in broken(tmp_path / "proto")


def test_generated_code_is_that_of_the_proto_files(tmp_path: Path) -> None:
    """Run what `make proto` runs into another folder and compare."""
    include = f"-Iservices/pb={ROOT / 'proto/triptych/v1'}"
    names = [f"services/pb/{path.name}" for path in sorted((ROOT / "proto/triptych/v1").glob("*.proto"))]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", include, *outputs, *names], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "services/pb").iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "services/pb").glob("*_pb2*")}
    assert made == kept, "run `make proto`"
