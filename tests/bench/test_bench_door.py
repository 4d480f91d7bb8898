"""What a token costs the front door: 200 concurrent HTTP streams, and workers that say one token of each in a step."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.core.actions import RequestOutput
from services.core.request import FinishReason, Request
from services.router.config import RouterConfig
from services.router.recorded import flow_from_header, flow_header
from tests.api.harness import Served, serving
from tests.unit.frontdoor.fakes import BOTH, DECODE

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]
STREAMS, STEPS, STEP_S, WARM_UP = 200, 200, 0.05, 20
MAX_US_PER_TOKEN = 150
MAX_LAG_P99_S = 0.05
CLIENT = """
import asyncio, json, sys
port, streams = int(sys.argv[1]), int(sys.argv[2])
body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stream": True, "ignore_eos": True}

async def one(number):
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\\r\\nhost: a\\r\\ncontent-type: application/json\\r\\n"
    head += f"connection: close\\r\\nx-request-id: silent.{number}\\r\\ncontent-length: {len(data)}\\r\\n\\r\\n"
    writer.write(head.encode() + data)
    answer = await reader.read()
    writer.close()
    assert b"data: [DONE]" in answer, answer[-300:]
    return answer.count(b'"delta":{"content":')

async def main():
    print(sum(await asyncio.gather(*(one(number) for number in range(streams)))))

asyncio.run(main())
"""


async def watch_lag(lags: list[float]) -> None:
    """How much later than asked the loop wakes a task."""
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(0.005)
        lags.append(time.perf_counter() - asked - 0.005)


def output(request: Request, step: int, finish: FinishReason | None) -> RequestOutput:
    """A letter."""
    return RequestOutput(request.request_id, request.attempt, step, (70 + step % 20,), finish)


async def say_tokens(served: Served, requests: list[Request]) -> tuple[float, list[float]]:
    """Tokens of all streams, a step at a time.

    Returns:
        CPU seconds of this process for each token, and the lags of the loop.
    """
    lags: list[float] = []
    watch = asyncio.create_task(watch_lag(lags))
    begun, started = 0.0, time.perf_counter()
    for step in range(STEPS):
        if step == WARM_UP:
            lags.clear()
            begun = time.process_time()
        finish = FinishReason.LENGTH if step == STEPS - 1 else None
        served.workers.say(DECODE, *(output(request, step, finish) for request in requests))
        if step % 10 == 0:
            served.workers.report(*BOTH)
        await asyncio.sleep(max(started + (step + 1) * STEP_S - time.perf_counter(), 0))
    watch.cancel()
    return (time.process_time() - begun) / ((STEPS - WARM_UP) * len(requests)), lags


async def test_a_token_of_200_streams_costs_at_most_150_microseconds(tmp_path: Path) -> None:
    flow = flow_from_header(flow_header("frontdoor-1", RouterConfig(), 16))
    async with serving(tmp_path, real_flow=flow, max_output_tokens=1000) as served:
        command = [sys.executable, "-c", CLIENT, str(served.servers.http_port), str(STREAMS)]
        client = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        while len(served.workers.submitted) < STREAMS:
            served.workers.report(*BOTH)
            await asyncio.sleep(0.1)
        requests = [request for _, _, request, _ in served.workers.submitted]
        per_token_s, lags = await say_tokens(served, requests)
        answer, _ = await asyncio.wait_for(client.communicate(), 60)
    p99_s = sorted(lags)[int(0.99 * len(lags))]
    us = per_token_s * 1e6
    print(
        f"\n{STREAMS} streams: {us:.0f} us of CPU a token, {us * STREAMS / STEP_S / 1e4:.0f} % of a core at this rate"
    )
    print(f"loop lag p99 {p99_s * 1e3:.1f} ms")
    assert int(answer) == STREAMS * STEPS
    assert us <= MAX_US_PER_TOKEN
    assert p99_s <= MAX_LAG_P99_S
