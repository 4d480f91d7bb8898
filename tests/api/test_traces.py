"""One trace a request: identity from and to W3C headers, stages that add up, what collectors get, who may look."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from services.core.clock import NS_PER_S
from services.core.config import parse
from services.pb import trace_pb2
from services.router.config import RouterConfig
from services.router.flow import RequestFlow
from services.semcache.config import SemcacheConfig
from services.telemetry.config import TelemetryConfig, TracesConfig
from tests.api.harness import Served, ask, serving, status_of_call
from tests.api.test_secure_door import ALICE, bearer, write_keys

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CACHE = parse(SemcacheConfig, {"enabled": True, "semantic": False})


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    flow, telemetry = RequestFlow("frontdoor-1", RouterConfig(), 16), TelemetryConfig(traces=TracesConfig(keep=3))
    async with serving(tmp_path, real_flow=flow, semcache=CACHE, telemetry=telemetry) as made:
        yield made


async def generate(served: Served, name: str, metadata: tuple[tuple[str, str], ...] = (), **fields: object) -> Any:
    """A finished call."""
    call = served.inference.Generate(ask(name, **fields), metadata=metadata)
    assert [message async for message in call]
    return call


async def traces_of(served: Served, name: str = "") -> list[trace_pb2.Trace]:
    await asyncio.sleep(0.05)  # a call's observers run when its answer is already at the client
    answer = await served.trace.GetTraces(trace_pb2.GetTracesRequest(id=name))
    return list(answer.traces)


def assert_adds_up(trace: trace_pb2.Trace) -> None:
    """Stages lie end to end in the call."""
    call, stages = trace.spans[0], trace.spans[1:]
    assert sum(stage.duration_us for stage in stages) == pytest.approx(call.duration_us, abs=0.01)
    assert all(stage.parent_span_id == call.span_id for stage in stages)
    assert len({span.span_id for span in trace.spans}) == len(trace.spans)


async def test_a_call_goes_on_with_its_clients_trace(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "services")
    call = await generate(served, "echo.1", (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "a=b")))
    told = dict(await call.initial_metadata())["traceparent"]
    (trace,) = await traces_of(served, "echo.1")
    assert [trace.trace_id] == [found.trace_id for found in await traces_of(served, TRACE)] == [TRACE]
    assert told == f"00-{TRACE}-{trace.spans[0].span_id}-01"
    assert trace.spans[0].parent_span_id == PARENT
    (line,) = [record for record in caplog.records if record.message == "request ended"]
    assert (line.request_id, line.trace_id) == ("echo.1", TRACE), "logs lead to traces"  # type: ignore[attr-defined]
    assert [span.name for span in trace.spans] == [
        "text_completion tiny", "receive", "cache", "route", "dispatch", "deliver",
    ]  # fmt: skip
    assert_adds_up(trace)


@pytest.mark.parametrize("header", ["", "00-0-0-01", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", "é"])
async def test_a_header_that_is_wrong_begins_a_trace(served: Served, header: str) -> None:
    url = f"http://127.0.0.1:{served.servers.http_port}/v1/completions"
    async with httpx.AsyncClient() as client:
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
        answer = await client.post(url, json=body, headers={"x-request-id": "echo.1", "traceparent": header.encode()})
    assert answer.status_code == 200
    (trace,) = await traces_of(served, "echo.1")
    version, trace_id, span_id, flags = answer.headers["traceparent"].split("-")
    assert (version, trace_id, span_id, flags) == ("00", trace.trace_id, trace.spans[0].span_id, "01")
    assert trace_id not in (TRACE, "0" * 32)
    assert trace.spans[0].parent_span_id == ""
    assert_adds_up(trace)


async def test_a_cache_hit_a_failure_and_several_outputs(served: Served) -> None:
    for name in ("echo.1", "echo.2"):
        await generate(served, name, (("x-category", "faq"),), prompt="the same")
    (hit,) = await traces_of(served, "echo.2")
    assert hit.spans[0].attributes["triptych.cache"] == "exact"
    assert [span.name for span in hit.spans[1:]] == ["receive", "cache", "route", "deliver"]
    assert_adds_up(hit)
    await status_of_call(served.inference.Generate(ask("error.1")))
    (failed,) = await traces_of(served, "error.1")
    assert failed.spans[0].error == failed.spans[0].attributes["error.type"] == "UNAVAILABLE"
    assert_adds_up(failed)
    sampling = {"n": 2, "temperature": 1.0, "max_tokens": 4}
    await generate(served, "echo.3", sampling=sampling)
    (several,) = await traces_of(served, "echo.3")
    outputs = [span for span in several.spans if span.name.startswith("output")]
    assert [span.parent_span_id for span in outputs] == [several.spans[0].span_id] * 2
    assert several.spans[0].attributes["gen_ai.request.choice.count"] == "2"
    assert [trace.request_id for trace in await traces_of(served)] == ["echo.3", "error.1", "echo.2"], "three are kept"


async def test_names_are_those_of_the_conventions_and_nothing_is_said_of_the_words(served: Served) -> None:
    await generate(served, "echo.1", prompt="a secret prompt")
    (trace,) = await traces_of(served)
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    named = set(trace.spans[0].attributes)
    assert {name for name in named if name.startswith("gen_ai.")} <= known
    assert {"gen_ai.operation.name", "gen_ai.usage.input_tokens", "gen_ai.response.finish_reasons"} <= named
    old = {"gen_ai.system", "gen_ai.prompt", "gen_ai.completion", "gen_ai.usage.prompt_tokens"}
    assert not named & old
    assert "secret" not in str(trace)


async def test_only_admins_look_and_what_they_ask_is_checked(tmp_path: Path) -> None:
    async with serving(tmp_path, auth=write_keys(tmp_path, ALICE)) as closed:
        look = closed.trace.GetTraces(trace_pb2.GetTracesRequest(), metadata=bearer("alice-key"))
        code, *_ = await status_of_call(look)
        assert code is grpc.StatusCode.PERMISSION_DENIED
    async with serving(tmp_path) as opened:
        for request in ({"id": "x" * 161}, {"limit": 101}):
            code, *_ = await status_of_call(opened.trace.GetTraces(trace_pb2.GetTracesRequest(**request)))
            assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP collector: its address, and what it got."""
    got: list[ExportTraceServiceRequest] = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collect)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_collector_gets_the_same_spans(
    tmp_path: Path, collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    address, got = collector
    config = TracesConfig(otlp_endpoint=address, sample_share=0.0)
    async with serving(tmp_path, telemetry=TelemetryConfig(traces=config)) as served:
        await generate(served, "echo.1")
        await generate(served, "echo.2", (("traceparent", f"00-{TRACE}-{PARENT}-01"),))
        await generate(served, "echo.3", (("traceparent", f"00-{TRACE}-{PARENT}-00"),))
        (kept,) = await traces_of(served, "echo.2")
    resources = [resource for request in got for resource in request.resource_spans]
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert {span.trace_id.hex() for span in spans} == {TRACE}, "its client sampled it; the others were not to be sent"
    assert [span.name for span in spans] == [span.name for span in kept.spans]
    assert [span.span_id.hex() for span in spans] == [span.span_id for span in kept.spans]
    assert [span.parent_span_id.hex() for span in spans] == [span.parent_span_id for span in kept.spans]
    for sent, told in zip(spans, kept.spans, strict=True):
        length_us = (sent.end_time_unix_nano - sent.start_time_unix_nano) / 1000
        assert length_us == pytest.approx(told.duration_us, abs=0.01)
    assert abs(spans[0].start_time_unix_nano - kept.unix_us * 1000) < NS_PER_S
    about = {each.key: each.value.string_value for each in resources[0].resource.attributes}
    assert (about["service.name"], about["service.instance.id"]) == ("triptych", "frontdoor-1")
