"""API keys and TLS on a real socket: who may call what, limits of tenants, and both reloaded under a running stream."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import grpc
import httpx
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.core.actions import RequestOutput
from services.core.errors import PortBusyError
from services.core.request import FinishReason
from services.frontdoor.auth import hash_key
from services.kvcache.block import tenant_salt
from services.pb import cluster_pb2, inference_pb2_grpc
from services.pb import inference_pb2 as pb
from tests.api.certificates import write_certificate
from tests.api.harness import Served, ask, serving, status_of_call
from tests.unit.frontdoor.fakes import DECODE

Code = grpc.StatusCode
SECRET = b"0" * 64


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def write_keys(folder: Path, *rows: tuple[str, str, str], **tenants: dict[str, float]) -> dict[str, str]:
    """Keys as (key, tenant, role); the config of the door."""
    keys = [{"id": f"k{n}", "sha256": hash_key(key), "tenant": t, "role": r} for n, (key, t, r) in enumerate(rows)]
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": keys, "tenants": tenants}))
    (folder / "secret").write_bytes(SECRET)
    return {"keys_file": str(folder / "keys.yaml"), "secret_file": str(folder / "secret")}


ALICE, BOB, ROOT = ("alice-key", "alice", "user"), ("bob-key", "bob", "user"), ("root-key", "ops", "admin")


async def test_keys_open_what_their_role_allows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with serving(tmp_path, auth=write_keys(tmp_path, ALICE, ROOT)) as served:
        for metadata in ((), bearer("wrong-key"), (("authorization", "Basic alice-key"),)):
            for call in (
                served.inference.Generate(ask("echo.1"), metadata=metadata),
                served.inference.ListModels(pb.ListModelsRequest(), metadata=metadata),
                served.cluster.GetStatus(cluster_pb2.GetStatusRequest(), metadata=metadata),
            ):
                code, reason, details = await status_of_call(call)
                assert (code, reason, set(details)) == (Code.UNAUTHENTICATED, "INVALID_API_KEY", {"ErrorInfo"})
        probe = health_pb2_grpc.HealthStub(served.channel)
        assert (await probe.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        models = await served.inference.ListModels(pb.ListModelsRequest(), metadata=bearer("alice-key"))
        assert len(models.models) == 1
        call = served.cluster.GetStatus(cluster_pb2.GetStatusRequest(), metadata=bearer("alice-key"))
        assert (await status_of_call(call))[:2] == (Code.PERMISSION_DENIED, "PERMISSION_DENIED")
        status = await served.cluster.GetStatus(cluster_pb2.GetStatusRequest(), metadata=bearer("root-key"))
        assert len(status.workers) == 2
    for secret in ("alice-key", "root-key", "wrong-key", hash_key("alice-key"), SECRET.decode()):
        assert secret not in caplog.text


async def test_tenants_are_kept_apart(tmp_path: Path) -> None:
    auth = write_keys(tmp_path, ALICE, BOB, ROOT)
    async with serving(tmp_path, auth=auth) as served:
        calls = [
            served.inference.Generate(
                ask(f"hang.{key}", "hello, a prompt of a full block and some more"), metadata=bearer(key)
            )
            for key in ("alice-key", "bob-key")
        ]
        for call in calls:
            await anext(aiter(call))
        requests = sorted((each[2] for each in served.workers.submitted), key=lambda each: each.tenant)
        assert [request.tenant for request in requests] == ["alice", "bob"]
        assert requests[0].prompt == requests[1].prompt
        assert requests[0].block_hashes and requests[0].block_hashes[0] != requests[1].block_hashes[0]
        assert tenant_salt(SECRET, "alice") not in repr(requests).encode()
        cancel = pb.CancelGenerationRequest(request_id="hang.alice-key")
        for key, found in (("bob-key", False), ("alice-key", True)):
            answer = await served.inference.CancelGeneration(cancel, metadata=bearer(key))
            assert answer.cancelled is found
        cancel = pb.CancelGenerationRequest(request_id="hang.bob-key")
        assert (await served.inference.CancelGeneration(cancel, metadata=bearer("root-key"))).cancelled


async def test_a_tenant_over_its_limits_is_told_which_and_when(tmp_path: Path) -> None:
    limits = {"alice": {"max_running_requests": 1}, "bob": {"requests_per_s": 0.001, "burst_requests": 1}}
    async with serving(tmp_path, auth=write_keys(tmp_path, ALICE, BOB, **limits)) as served:
        running = served.inference.Generate(ask("hang.1"), metadata=bearer("alice-key"))
        await anext(aiter(running))
        code, reason, details = await status_of_call(
            served.inference.Generate(ask("echo.2"), metadata=bearer("alice-key"))
        )
        assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "TOO_MANY_RUNNING")
        assert set(details) == {"ErrorInfo", "QuotaFailure", "RetryInfo"}
        assert details["QuotaFailure"].violations[0].subject == "tenant:alice"
        running.cancel()
        while served.limiter.running("alice"):
            await asyncio.sleep(0.005)
        async for _ in served.inference.Generate(ask("echo.3"), metadata=bearer("alice-key")):
            pass
        count = pb.CountTokensRequest(prompt="hello")
        await served.inference.CountTokens(count, metadata=bearer("bob-key"))
        code, reason, details = await status_of_call(served.inference.CountTokens(count, metadata=bearer("bob-key")))
        assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert 990_000 < details["RetryInfo"].retry_delay.ToMilliseconds() <= 1_000_000
        await served.inference.ListModels(pb.ListModelsRequest(), metadata=bearer("bob-key"))  # costs nothing


async def test_a_tenants_tokens_are_counted_at_both_doors(tmp_path: Path) -> None:
    limits = {"alice": {"output_tokens_per_s": 0.001, "burst_output_tokens": 8}}
    async with serving(tmp_path, auth=write_keys(tmp_path, ALICE, **limits)) as served:
        few, hello = pb.Sampling(max_tokens=8), {"metadata": bearer("alice-key")}
        for number in (1, 2):  # `hello` comes back as four tokens; the other four are not used
            call = served.inference.Generate(ask(f"echo.{number}", "hello", sampling=few), **hello)
            if number == 1:
                assert [each async for each in call]
        code, reason, details = await status_of_call(call)
        assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "OUTPUT_TOKENS_LIMITED")
        assert 3_900_000 < details["RetryInfo"].retry_delay.ToMilliseconds() <= 4_000_000
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as client:
            body = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
            headers = {"authorization": "Bearer alice-key"}
            assert (await client.post("/v1/completions", json=body, headers=headers)).status_code == 200
            refused = await client.post("/v1/completions", json=body, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "output_tokens_limited")
            assert int(refused.headers["retry-after"]) > 3000
            metrics = (await client.get("/metrics")).text
        assert 'triptych_tenant_limited_total{reason="OUTPUT_TOKENS_LIMITED"} 2.0' in metrics


async def finish(served: Served, call: object, name: str) -> list[str]:
    """Let a hanging stream end; what it still said."""
    served.workers.say(DECODE, RequestOutput(name, 1, 1, (70,), FinishReason.STOP))
    return [message.WhichOneof("event") async for message in call]  # type: ignore[attr-defined]


async def test_keys_are_reloaded_under_a_running_stream(tmp_path: Path) -> None:
    async with serving(tmp_path, auth=write_keys(tmp_path, ALICE)) as served:
        stream = served.inference.Generate(ask("hang.1"), metadata=bearer("alice-key"))
        await anext(aiter(stream))
        write_keys(tmp_path, BOB)
        assert served.authenticator.reload()
        call = served.inference.Generate(ask("echo.2"), metadata=bearer("alice-key"))
        assert (await status_of_call(call))[0] is Code.UNAUTHENTICATED
        async for _ in served.inference.Generate(ask("echo.3"), metadata=bearer("bob-key")):
            pass
        assert (await finish(served, stream, "hang.1"))[-2:] == ["finished", "usage"]


def tls_channel(served: Served, pem: bytes, name: str) -> grpc.aio.Channel:
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"127.0.0.1:{served.servers.grpc_port}", grpc.ssl_channel_credentials(pem), options)


async def test_the_certificate_of_both_doors_is_reloaded_under_a_running_stream(tmp_path: Path) -> None:
    cert_file, key_file, first = write_certificate(tmp_path, "first.test")
    async with serving(tmp_path, tls={"cert_file": cert_file, "key_file": key_file}) as served:
        assert served.tls is not None
        async with tls_channel(served, first, "first.test") as channel:
            stream = inference_pb2_grpc.InferenceServiceStub(channel).Generate(ask("hang.1"))
            await anext(aiter(stream))
            (tmp_path / "key.pem").write_text("not a key")
            assert not served.tls.reload()  # the old certificate stays
            _, _, second = write_certificate(tmp_path, "second.test")
            assert served.tls.reload()
            async with tls_channel(served, second, "second.test") as other:
                async for _ in inference_pb2_grpc.InferenceServiceStub(other).Generate(ask("echo.2")):
                    pass
            async with tls_channel(served, first, "first.test") as old:
                models = inference_pb2_grpc.InferenceServiceStub(old).ListModels(pb.ListModelsRequest())
                with pytest.raises(grpc.aio.AioRpcError):
                    await models
            assert (await finish(served, stream, "hang.1"))[-2:] == ["finished", "usage"]
        shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", served.servers.http_port))
        assert shown.encode().split() == second.split()


async def test_replicas_with_tls_and_keys_share_ports_and_strangers_are_refused(tmp_path: Path) -> None:
    cert_file, key_file, _ = write_certificate(tmp_path, "door.test")
    secure = {"tls": {"cert_file": cert_file, "key_file": key_file}, "auth": write_keys(tmp_path, ALICE)}
    async with serving(tmp_path, "c1", **secure) as first:
        ports = {"grpc_port": first.servers.grpc_port, "http_port": first.servers.http_port}
        async with serving(tmp_path, "c1", **ports, **secure) as second:
            assert second.servers.grpc_port == first.servers.grpc_port
        with pytest.raises(PortBusyError, match=r"frontdoor\.grpc_port = \d+: held by pid \d+"):
            async with serving(tmp_path, "c2", **ports, **secure):
                pass


async def test_keys_tenants_and_limits_hold_at_the_http_door_too(tmp_path: Path) -> None:
    cert_file, key_file, _ = write_certificate(tmp_path, "door.test")
    auth = write_keys(tmp_path, ALICE, BOB, bob={"requests_per_s": 0.001, "burst_requests": 1})
    async with serving(tmp_path, auth=auth, tls={"cert_file": cert_file, "key_file": key_file}) as served:
        trust = ssl.create_default_context(cafile=cert_file)
        trust.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        base = f"https://127.0.0.1:{served.servers.http_port}"
        async with httpx.AsyncClient(base_url=base, verify=trust) as client:
            assert (await client.get("/livez")).status_code == 200
            for headers in ({}, {"authorization": "Bearer wrong-key"}):
                answer = await client.get("/v1/models", headers=headers)
                error = answer.json()["error"]
                assert (answer.status_code, error["type"], error["code"]) == (
                    401,
                    "authentication_error",
                    "invalid_api_key",
                )
            body = {"model": "tiny", "prompt": "hello"}
            answers = [
                await client.post(
                    "/v1/completions",
                    json=body,
                    headers={"authorization": f"Bearer {key}", "x-request-id": f"echo.{n}"},
                )
                for n, key in enumerate(("alice-key", "bob-key", "bob-key"))
            ]
            assert [answer.status_code for answer in answers] == [200, 200, 429], [each.text for each in answers]
            assert answers[2].json()["error"]["type"] == "rate_limit_error"
            assert 900 < int(answers[2].headers["retry-after"]) <= 1000
        assert sorted(request.tenant for _, _, request, _ in served.workers.submitted) == ["alice", "bob"]
