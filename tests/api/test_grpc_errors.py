"""What gRPC clients see of failures: the error map, unknown methods, broken and hostile input, sizes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from pathlib import Path

import grpc
import pytest

from services.frontdoor.convert import Converter
from services.pb import cluster_pb2
from services.pb import inference_pb2 as pb
from tests.api.error_map import ROWS, Row, classes
from tests.api.harness import Served, ask, details_of, serving, status_of_call

Code = grpc.StatusCode
GENERATE = "/triptych.v1.InferenceService/Generate"


def test_the_map_has_every_error() -> None:
    assert {type(row.error) for row in ROWS} == classes()


async def test_every_error_has_its_status_and_details(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing: list[Row] = []

    def fail(self: Converter, *arguments: object) -> None:
        raise failing[0].error

    monkeypatch.setattr(Converter, "request", fail)
    async with serving(tmp_path) as served:
        for row in ROWS:
            failing[:] = [row]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(served.inference.Generate(ask("echo.1"))))
            assert (caught.value.code().name, caught.value.details()) == (row.grpc, row.error.message), row
            details = details_of(caught.value)
            assert set(details) == {"ErrorInfo", *row.details}, row
            info = details["ErrorInfo"]
            assert (info.domain, info.reason.lower()) == ("triptych.dev", row.code), row
            assert info.metadata["request_id"] == "echo.1"
            if "RetryInfo" in details:
                assert details["RetryInfo"].retry_delay.ToMilliseconds() == 1500
            if "BadRequest" in details:
                assert details["BadRequest"].field_violations[0].field == row.error.param


async def test_the_ends_of_calls_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "services.frontdoor.layers")
    async with serving(tmp_path) as served:
        async for _ in served.inference.Generate(ask("echo.1")):
            pass
        await status_of_call(served.inference.Generate(ask("echo.2", "")))
        call = served.inference.Generate(ask("hang.3"))
        await anext(aiter(call))
        call.cancel()
        await status_of_call(served.inference.Generate(ask("hang.4"), timeout=1.0))
        while served.performer.num_running or len(caplog.records) < 3:
            await asyncio.sleep(0.01)
    ends = {record.args[3]: record.args[1] for record in caplog.records}  # type: ignore[index, call-overload]
    assert ends == {"echo.2": "INVALID_ARGUMENT", "hang.3": "CANCELLED", "hang.4": "DEADLINE_EXCEEDED"}
    assert len(caplog.records) == 3


async def test_what_grpc_itself_would_call_internal_is_the_clients_mistake(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for data in (b"\xff" * 10, b"\x22\x02\xc3\x28"):  # no message; a string that is not UTF-8
            code, reason, details = await status_of_call(served.channel.unary_stream(GENERATE)(data))
            assert (code, reason) == (Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")
            assert details["BadRequest"].field_violations[0].field == "message"
        for path in ("/triptych.v1.InferenceService/Nothing", "/nothing", "/a/b/../c", "/" + "x" * 3000):
            code, reason, _ = await status_of_call(served.channel.unary_unary(path)(b""))
            assert (code, reason) == (Code.UNIMPLEMENTED, "UNSUPPORTED")


async def test_sizes_are_bounded_and_others_are_served_on(tmp_path: Path) -> None:
    async with serving(tmp_path, max_message_bytes=2**16) as served:
        count = served.inference.CountTokens
        code, _, details = await status_of_call(count(pb.CountTokensRequest(prompt="x" * 2**17)))
        assert (code, "RetryInfo" in details) == (Code.RESOURCE_EXHAUSTED, False)
        metadata = tuple((f"x-filler-{n}", "y" * 2000) for n in range(8))
        code, _, _ = await status_of_call(count(pb.CountTokensRequest(prompt="x"), metadata=metadata))
        assert code is Code.RESOURCE_EXHAUSTED
        bomb = pb.CountTokensRequest(prompt="x" * 2**24)  # 16 KiB on the wire
        code, _, _ = await status_of_call(count(bomb, compression=grpc.Compression.Gzip))
        assert code is Code.RESOURCE_EXHAUSTED
        turn = pb.Message(role="é" * 20_000, content=[pb.ContentPart(text="x")])  # is quoted, but not whole
        code, _, details = await status_of_call(count(pb.CountTokensRequest(messages=[turn])))
        assert (code, details["BadRequest"].field_violations[0].field) == (Code.INVALID_ARGUMENT, "messages[0].role")
        assert (await count(pb.CountTokensRequest(prompt="hello"))).prompt_tokens == 4


def odd_request(chance: random.Random) -> bytes:
    """A Generate request that is wrong in one of many ways: cut, flipped, or with wild values."""
    request = ask(
        "echo.1",
        sampling=pb.Sampling(
            temperature=chance.choice([float("nan"), float("inf"), -1.0, 1e300]),
            max_tokens=chance.choice([0, 2**32 - 1]),
            n=chance.choice([0, 1, 2**31]),
            logit_bias={chance.randrange(2**32): chance.choice([float("nan"), 1e9, 0.0])},
            stop_token_ids=[chance.randrange(2**32)] * chance.choice([0, 1, 100]),
        ),
        priority=chance.choice([0, -(2**31), 2**31 - 1]),
    )
    data = bytearray(request.SerializeToString())
    match chance.randrange(4):
        case 0:
            return bytes(data[: chance.randrange(len(data))])
        case 1:
            for _ in range(8):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            return bytes(data)
        case 2:
            return chance.randbytes(chance.randrange(200))
        case _:
            return bytes(data)


FINE = {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.RESOURCE_EXHAUSTED}


async def throw(served: Served, data: bytes) -> None:
    """Send bytes as a request: it may be answered, or refused as the client's mistake."""
    try:
        async for _ in served.channel.unary_stream(GENERATE)(data, timeout=5):
            pass
    except grpc.aio.AioRpcError as error:
        assert error.code() in FINE, (error, data)


async def raw(port: int, data: bytes) -> None:
    """Bytes on the bare socket; whatever comes back is not looked at."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    with contextlib.suppress(TimeoutError, ConnectionError):  # a half-open client: the server must not care
        await asyncio.wait_for(reader.read(65536), 0.05)
    writer.close()


async def survive(served: Served, seed: int, count: int) -> None:
    """Hostile requests and hostile sockets; the door serves on."""
    chance = random.Random(seed)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    for _ in range(count):
        await throw(served, odd_request(chance))
        junk = chance.randbytes(chance.randrange(1, 500))
        first = chance.choice([b"", b"GET / HTTP/1.1\r\n\r\n", preface, preface + settings, b"\x16\x03\x01"])
        await raw(served.servers.grpc_port, first + junk)
    assert (await served.inference.CountTokens(pb.CountTokensRequest(prompt="hello"))).prompt_tokens == 4
    assert (await served.cluster.GetStatus(cluster_pb2.GetStatusRequest())).running_requests == 0


async def test_hostile_input_is_refused_and_others_are_served_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await survive(served, seed=1, count=25)
