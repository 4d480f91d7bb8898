"""Streams on the wire: framing, comments while nothing comes, and every way in which a call ends early."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.core.actions import Cancel, RequestOutput
from services.core.request import FinishReason
from tests.api.harness import Served, serving
from tests.api.test_grpc_lifecycle import DEADLINES_S, STAGES, got_there, until_at
from tests.unit.frontdoor.fakes import DECODE, PREFILL

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
LINES = "\u2028 \u2029 \u0085 日本 🙂"
"""Some clients split lines at the first three."""


def post(body: dict[str, object], name: str, more: str = "") -> bytes:
    """A request as bytes."""
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{more}"
    return f"{head}x-request-id: {name}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


@contextlib.asynccontextmanager
async def connection(served: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare socket to the HTTP door."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.servers.http_port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def chunks_of(reader: asyncio.StreamReader) -> list[bytes]:
    """The chunks of a chunked body up to its end."""
    found = []
    while size := int(await reader.readline(), 16):
        found.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return found


async def test_the_framing_of_a_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, connection(served) as (reader, writer):
        for name in ("step.1", "step.2"):  # one connection serves one after the other
            writer.write(post({**CHAT, "messages": [{"role": "user", "content": LINES}], "stream": True}, name))
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith("http/1.1 200 ok\r\n")
            for line in (
                *("content-type: text/event-stream; charset=utf-8", "transfer-encoding: chunked"),
                *("cache-control: no-cache", "x-accel-buffering: no", f"x-request-id: {name}"),
            ):
                assert f"\r\n{line}\r\n" in head, line
            text = b"".join(await chunks_of(reader)).decode()
            assert text.endswith("\n\ndata: [DONE]\n\n")
            events = text.splitlines()[::2]
            assert not any(text.splitlines()[1::2])  # so that line readers of Python's kind see whole events
            assert all(event.startswith("data: ") for event in events)
            deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events[:-1]]
            assert LINES in "".join(delta.get("content", "") for delta in deltas)


async def test_comments_while_nothing_comes(tmp_path: Path) -> None:
    async with serving(tmp_path, http={"keep_alive_comment_s": 0.05}) as served:
        url = f"http://127.0.0.1:{served.servers.http_port}/v1/chat/completions"
        async with httpx.AsyncClient() as client:
            stream = client.stream("POST", url, json={**CHAT, "stream": True}, headers={"x-request-id": "queue.1"})
            async with stream as answer:
                lines = answer.aiter_lines()
                assert answer.status_code == 200
                for _ in range(3):
                    assert [await anext(lines), await anext(lines)] == [": keep-alive", ""]
                served.workers.say(PREFILL, RequestOutput("queue.1", 1, 0, (70,)))
                served.workers.say(DECODE, RequestOutput("queue.1", 1, 1, (2,), FinishReason.STOP))
                assert [line async for line in lines if line][-1] == "data: [DONE]"


async def ended(served: Served, kind: str, name: str, finish: FinishReason) -> None:
    """Wait until a request has ended everywhere, in that way."""
    while served.performer.num_running or (kind != "queue" and not served.workers.cancelled):
        await asyncio.sleep(0.002)
    assert [event.finish for event in served.flow.of(Cancel)] == [finish]  # type: ignore[attr-defined]
    assert [each[1:3] for each in served.workers.cancelled] == ([] if kind == "queue" else [(name, finish)])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", STAGES)
async def test_a_client_that_goes_ends_its_request_once(tmp_path: Path, kind: str, stream: bool) -> None:
    name = f"{kind}.1"
    async with serving(tmp_path) as served:
        async with connection(served) as (_, writer):
            writer.write(post({**CHAT, "stream": stream}, name))
            await until_at(served, name, STAGES[kind])
        await ended(served, kind, name, FinishReason.CANCELLED)
        async with connection(served) as (reader, writer):
            writer.write(post(CHAT, "echo.2"))
            assert b"200 OK" in await reader.readline()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", STAGES)
async def test_a_deadline_ends_a_request_once(tmp_path: Path, kind: str, stream: bool) -> None:
    for timeout_s in DEADLINES_S:
        if await deadline_that_ends_a_request(tmp_path, kind, stream, timeout_s):
            return
    pytest.fail(f"a request did not get to {kind!r} in {timeout_s} s")


async def deadline_that_ends_a_request(tmp_path: Path, kind: str, stream: bool, timeout_s: float) -> bool:
    """Whether the request got to its stage; then the rest is checked."""
    name = f"{kind}.1"
    headers = f"x-request-timeout-ms: {int(timeout_s * 1e3)}\r\nconnection: close\r\n"
    async with serving(tmp_path) as served, connection(served) as (reader, writer):
        writer.write(post({**CHAT, "stream": stream}, name, headers))
        answered = asyncio.create_task(reader.read())
        there = await got_there(served, name, STAGES[kind], answered)
        answer = (await answered).decode()
        if not there:
            return False
        await ended(served, kind, name, FinishReason.DEADLINE)
        begun = kind == "hang" and stream
        assert answer.startswith("HTTP/1.1 200" if begun else "HTTP/1.1 504")
        assert '"timeout_error"' in answer and "[DONE]" not in answer
    return True


async def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path, http={"stalled_reader_s": 0.2}) as served:
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(("127.0.0.1", served.servers.http_port))
            plain.sendall(post({**CHAT, "stream": True}, "queue.1"))
            while not served.performer.num_running:
                await asyncio.sleep(0.01)
            index = 0
            while served.performer.num_running:  # a stream without an end
                ids = (70,) * 500
                served.workers.say(DECODE, RequestOutput("queue.1", 1, index, ids))
                index += len(ids)
                await asyncio.sleep(0.001)
            while served.servers._http.server_state.connections:
                await asyncio.sleep(0.01)


async def test_slow_headers_bodies_and_idle_connections_are_closed(tmp_path: Path) -> None:
    limits = {"header_timeout_s": 0.2, "body_timeout_s": 0.2, "idle_timeout_s": 0.2, "max_connections": 8}
    async with serving(tmp_path, http=limits) as served:
        for sent, status in (
            (b"", b""),
            (b"\r\n", b"408"),
            (b"GET /livez HT", b"408"),
            (b"GET /livez HTTP/1.1\r\nhost: a\r\nx", b"408"),
            (post(CHAT, "echo.1")[:-5], b"408"),
            (b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n", b"200"),
        ):
            async with connection(served) as (reader, writer):
                writer.write(sent)
                answer = await reader.read()
                assert (answer.split(b" ")[1] if answer else b"") == status, (sent, answer)
        async with contextlib.AsyncExitStack() as stack:
            held = [await stack.enter_async_context(connection(served)) for _ in range(9)]
            answers = await asyncio.gather(*(reader.read() for reader, _ in held), return_exceptions=True)
            assert len(answers) == 9  # none is held for ever
        while served.servers._http.server_state.connections:
            await asyncio.sleep(0.01)


async def test_draining_closes_the_door_but_not_the_streams(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, connection(served) as (reader, writer):
        writer.write(post({**CHAT, "stream": True}, "hang.1"))
        await reader.readuntil(b"\r\n\r\n")
        served.performer.draining = True
        await served.servers.show_draining()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", served.servers.http_port)
        served.workers.say(DECODE, RequestOutput("hang.1", 1, 1, (70, 2), FinishReason.STOP))
        assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
