"""A server that does as it is told, in its own process: OpenAI over HTTP and our gRPC, right or planted wrong."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web

from services.pb import inference_pb2 as pb
from services.pb import inference_pb2_grpc

ROOT = Path(__file__).parents[2]
EVENTS = 8


@dataclass(frozen=True)
class Behaviour:
    """What is wrong with the server, if anything.

    `stall_at` and `stall_s`: everything waits so long when request number `stall_at` comes.
    `every`: of so many requests one gets something of `wrong`, in turn: 500, 429, half, garbage.
    """

    gap_s: float = 0.002
    stall_at: int = -1
    stall_s: float = 0.0
    every: int = 0
    wrong: tuple[str, ...] = ()


class Stub(inference_pb2_grpc.InferenceServiceServicer):
    """Both doors over one behaviour."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.count = 0
        self.open = asyncio.Event()
        self.open.set()

    async def arrive(self) -> str:
        """Count a request, stall if told to; returns what goes wrong with it."""
        self.count += 1
        if self.count == self.behaviour.stall_at:
            self.open.clear()
            asyncio.get_running_loop().call_later(self.behaviour.stall_s, self.open.set)
        await self.open.wait()
        turn, rest = divmod(self.count, self.behaviour.every or self.count + 1)
        return "" if rest else self.behaviour.wrong[(turn - 1) % len(self.behaviour.wrong)]

    async def pieces(self, tokens: int, wrong: str) -> AsyncIterator[int]:
        """Sizes of the messages, in time."""
        messages = min(EVENTS, tokens)
        for place in range(messages):
            await asyncio.sleep(self.behaviour.gap_s)
            await self.open.wait()
            yield tokens * (place + 1) // messages - tokens * place // messages
            if wrong == "half" and place == messages // 2:
                return

    # ---------------------------------------------------------------- HTTP

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "stub"}]})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        wrong = await self.arrive()
        if wrong in {"500", "429"}:
            error = {"message": f"planted {wrong}", "type": "server_error", "param": None, "code": "planted"}
            return web.json_response({"error": error}, status=int(wrong))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if wrong == "garbage":
            await response.write(b"data: {nonsense\n\n")
        async for size in self.pieces(body["max_tokens"], wrong):
            event = {"choices": [{"index": 0, "text": "x" * size, "finish_reason": None}]}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if wrong != "half":
            last: dict[str, Any] = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
            last["usage"] = {"completion_tokens": body["max_tokens"], "prompt_tokens": len(body["prompt"])}
            await response.write(b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n")
        return response

    # ---------------------------------------------------------------- gRPC

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        wrong = await self.arrive()
        if wrong in {"500", "429"}:
            code = grpc.StatusCode.INTERNAL if wrong == "500" else grpc.StatusCode.RESOURCE_EXHAUSTED
            await context.abort(code, f"planted {wrong}")
        index = 0
        async for size in self.pieces(request.sampling.max_tokens, wrong):
            yield pb.GenerateResponse(delta=pb.Delta(token_ids=range(size), token_index=index))
            index += size
        if wrong == "half":
            return
        marks = ("received", "prefill_start", "prefill_end", "decode_start", "finished")
        timeline = [pb.TimelineEvent(name=name, offset_us=1000 * place) for place, name in enumerate(marks)]
        yield pb.GenerateResponse(finished=pb.Finished(timeline=timeline))
        yield pb.GenerateResponse(usage=pb.Usage(output_tokens=index, cached_tokens=16))


async def serve(behaviour: Behaviour) -> None:
    """Serve on free ports, told on stdout, until stdin ends."""
    stub = Stub(behaviour)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_get("/v1/models", stub.models)
    app.router.add_post("/v1/completions", stub.completions)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(stub, server)
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    gc.freeze()
    print(runner.addresses[0][1], grpc_port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
    await runner.cleanup()


@contextlib.contextmanager
def stub_server(**behaviour: object) -> Iterator[tuple[str, str]]:
    """URLs of both doors of a stub in its own process."""
    command = [sys.executable, "-m", "tests.loadgen.stub", json.dumps(behaviour)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        http, rpc = process.stdout.readline().split()
        yield f"http://127.0.0.1:{http}", f"grpc://127.0.0.1:{rpc}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviour", type=json.loads)
    asyncio.run(serve(Behaviour(**parser.parse_args().behaviour)))
