"""What requests are sent to: our gRPC, any OpenAI-compatible HTTP server, and the port that a simulator fills.

A target prepares a request before it is due, so that building its bytes does not make it late, then sends it and
tells a `Reading` when tokens come. However a server misbehaves, `send` returns an `Ending` and never raises.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import aiohttp
import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from loadgen.reading import OK, Ask, Ending, EventStream, Reading, http_ending, phases_of
from loadgen.schedule import ScheduledRequest
from services.core.clock import Clock
from services.core.errors import ConfigError, UnavailableError
from services.core.slo import Outcome, RequestSample, Slo
from services.pb import inference_pb2, inference_pb2_grpc

CONNECT_TIMEOUT_S = 5.0
GRPC_CHANNELS = 4  # one HTTP/2 connection serialises its streams' writes; four do not show in a profile


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """Where to send and how; travels to the sending processes.

    Attributes:
        url: `grpc://host:port`, `http://host:port` or `https://host`, with or without a path before `/v1`.
        model: name that requests carry; None takes the first that the server lists.
        api_key: bearer token, kept out of reports.
        chat: send text prompts to `/v1/chat/completions`; else `/v1/completions`.
        ignore_eos: ask for exactly the trace's output length; servers that know no such field need False.
        keep_alive: reuse connections.
        slo: told to the server as wishes.
    """

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    chat: bool = False
    ignore_eos: bool = True
    keep_alive: bool = True
    slo: Slo = field(default_factory=Slo)


class Target(Protocol):
    """A server, from one sending process."""

    async def open(self) -> None:
        """Connect and look whether somebody answers.

        Raises:
            UnavailableError: nobody does; names the address and what to start.
        """

    def prepare(self, ask: Ask) -> Any:
        """The bytes or message to send, made ahead of time."""

    async def send(self, ask: Ask, prepared: Any, reading: Reading, timeout_s: float) -> Ending:
        """Send, read to the end, and say how it ended."""

    async def close(self) -> None:
        """Let go of all connections."""


class SimulatedTarget(Protocol):
    """A target that lives in virtual time: it is given the schedule and computes what clients would have seen."""

    def run(self, requests: Iterable[ScheduledRequest]) -> Iterator[RequestSample]:
        """The samples in order of their ends; `sent_ns` equals `intended_ns`."""


def make_target(spec: TargetSpec, clock: Clock) -> Target:
    """The target for a URL.

    Raises:
        ConfigError: a scheme that is not known, or no host.
    """
    parts = urlsplit(spec.url)
    if parts.scheme == "grpc" and parts.hostname and parts.port:
        return GrpcTarget(spec, clock)
    if parts.scheme in {"http", "https"} and parts.hostname:
        return HttpTarget(spec, clock)
    raise ConfigError("--target", spec.url, "write grpc://host:port, http://host:port or https://host[:port]")


# ------------------------------------------------------------------ our gRPC


class GrpcTarget:
    """`triptych.v1.InferenceService`."""

    def __init__(self, spec: TargetSpec, clock: Clock) -> None:
        self._spec, self._clock = spec, clock
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: list[Any] = []
        self._next = 0
        self._metadata = (("authorization", f"Bearer {spec.api_key}"),) if spec.api_key else ()

    async def open(self) -> None:
        address = self._spec.url.removeprefix("grpc://")
        # A pool of its own gives each channel a connection of its own.
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self._channels = [grpc.aio.insecure_channel(address, options) for _ in range(GRPC_CHANNELS)]
        self._stubs = [inference_pb2_grpc.InferenceServiceStub(channel) for channel in self._channels]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        except TimeoutError:
            raise unreachable(self._spec.url, f"no connection within {CONNECT_TIMEOUT_S:g} s") from None

    def prepare(self, ask: Ask) -> Any:
        slo = self._spec.slo
        request = inference_pb2.GenerateRequest(
            request_id=ask.request_id,
            model=self._spec.model or "",
            sampling=inference_pb2.Sampling(max_tokens=ask.output_tokens, ignore_eos=self._spec.ignore_eos),
            ttft_slo_ms=None if slo.ttft_ms is None else max(1, round(slo.ttft_ms)),
            tpot_slo_ms=None if slo.tpot_ms is None else max(1, round(slo.tpot_ms)),
            include_timeline=True,
        )
        if isinstance(ask.prompt, str):
            request.prompt = ask.prompt
        else:
            request.prompt_token_ids.extend(ask.prompt)
        return request

    async def send(self, ask: Ask, prepared: Any, reading: Reading, timeout_s: float) -> Ending:
        self._next = (self._next + 1) % len(self._stubs)
        metadata = (*self._metadata, ("x-category", ask.category)) if ask.category else self._metadata
        call = self._stubs[self._next].Generate(prepared, timeout=timeout_s, metadata=metadata)
        finished = False
        try:
            async for message in call:
                kind = message.WhichOneof("event")
                if kind == "delta" and message.delta.token_ids:
                    reading.add(len(message.delta.token_ids))
                    if ask.leave_after_tokens is not None and reading.tokens >= ask.leave_after_tokens:
                        return Ending(Outcome.DISCONNECTED)
                elif kind == "finished":
                    marks = ((event.name, event.offset_us) for event in message.finished.timeline)
                    reading.phases_ms, reading.phase_starts_ms = phases_of(marks)
                    finished = True
                elif kind == "usage":
                    reading.cached_tokens = message.usage.cached_tokens
                if ask.read_delay_s:
                    await asyncio.sleep(ask.read_delay_s)
        except grpc.aio.AioRpcError as error:
            return grpc_ending(error, reading)
        finally:
            call.cancel()  # of a call that has ended this does nothing
        return OK if finished else Ending(Outcome.TRUNCATED, "NO_FINISH", "the stream ended without `finished`")

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))


def grpc_ending(error: grpc.aio.AioRpcError, reading: Reading) -> Ending:
    """What a status means; one without ErrorInfo comes from the connection, not from the server's own code."""
    code, message = error.code(), error.details() or ""
    reason = ""
    status = rpc_status.from_call(cast(grpc.Call, error)) if error.trailing_metadata() else None
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Ending(Outcome.DEADLINE, reason or code.name, message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Ending(Outcome.REJECTED, reason or code.name, message)
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        outcome = Outcome.UNREACHABLE if reading.first_ns is None else Outcome.TRUNCATED
        return Ending(outcome, code.name, message)
    return Ending(Outcome.ERROR, reason or code.name, message)


# ------------------------------------------------------------------ OpenAI over HTTP


class HttpTarget:
    """`/v1/completions` or `/v1/chat/completions` of any server, streamed."""

    def __init__(self, spec: TargetSpec, clock: Clock) -> None:
        self._spec, self._clock = spec, clock
        base = spec.url.rstrip("/").removesuffix("/v1")
        self._models_url = f"{base}/v1/models"
        self._url = f"{base}/v1/chat/completions" if spec.chat else f"{base}/v1/completions"
        self._model = spec.model
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        headers = {"content-type": "application/json"}
        if self._spec.api_key:
            headers["authorization"] = f"Bearer {self._spec.api_key}"
        for name, value in (("x-slo-ttft-ms", self._spec.slo.ttft_ms), ("x-slo-tpot-ms", self._spec.slo.tpot_ms)):
            headers |= {} if value is None else {name: str(max(1, round(value)))}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=not self._spec.keep_alive),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            headers=headers,
        )
        try:
            timeout = aiohttp.ClientTimeout(total=CONNECT_TIMEOUT_S)
            async with self._session.get(self._models_url, timeout=timeout) as response:
                if self._model is None:
                    self._model = _first_model(response.status, await response.text())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(self._spec.url, str(error) or type(error).__name__) from None

    def prepare(self, ask: Ask) -> Any:
        body: dict[str, Any] = {"model": self._model, "max_tokens": ask.output_tokens, "temperature": 0}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self._spec.ignore_eos:
            body["ignore_eos"] = True
        if self._spec.chat:
            if not isinstance(ask.prompt, str):
                raise ConfigError("--chat", "token ids", "chat takes text prompts; leave --chat out for traces")
            body["messages"] = [{"role": "user", "content": ask.prompt}]
        else:
            body["prompt"] = ask.prompt if isinstance(ask.prompt, str) else list(ask.prompt)
        headers = {"x-request-id": ask.request_id}
        if ask.category:
            headers["x-category"] = ask.category
        return json.dumps(body, separators=(",", ":")).encode(), headers

    async def send(self, ask: Ask, prepared: Any, reading: Reading, timeout_s: float) -> Ending:
        assert self._session is not None, "send before open"
        data, headers = prepared
        replied = False
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(self._url, data=data, headers=headers) as response,
            ):
                replied = True
                if response.status != 200:
                    return http_ending(response.status, await response.text(errors="replace"))
                return await self._read(response, ask, reading)
        except aiohttp.ClientError as error:  # before TimeoutError: a connection that cannot be made in time is both
            message = f"{type(error).__name__}: {error}"
            if replied:
                return Ending(Outcome.TRUNCATED, "CONNECTION_LOST", message)
            return Ending(Outcome.UNREACHABLE, "NO_REPLY", message)
        except TimeoutError:
            return Ending(Outcome.DEADLINE, "CLIENT_DEADLINE", f"no end within {timeout_s:g} s")

    async def _read(self, response: aiohttp.ClientResponse, ask: Ask, reading: Reading) -> Ending:
        stream = EventStream()
        async for chunk in response.content.iter_any():
            messages = stream.feed(chunk)
            if messages:
                reading.add(messages)
            if ask.leave_after_tokens is not None and reading.tokens >= ask.leave_after_tokens:
                response.close()
                return Ending(Outcome.DISCONNECTED)
            if stream.problem is not None:
                response.close()
                return stream.problem
            if ask.read_delay_s:
                await asyncio.sleep(ask.read_delay_s)
        if reading.first_ns is None and stream.output_tokens:
            reading.add(0)  # tokens without any text, as halves of a character are: known only now
        reading.tokens = stream.output_tokens or reading.tokens
        reading.cached_tokens, reading.phases_ms = stream.cached_tokens, stream.phases_ms
        if not (stream.done or stream.finished):
            return Ending(Outcome.TRUNCATED, "NO_FINISH", "the stream ended without a finish_reason and without [DONE]")
        return OK

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _first_model(status: int, body: str) -> str:
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, TypeError, KeyError, IndexError):
        raise ConfigError("--model", None, f"/v1/models answers {status} and lists none; name the model") from None


def unreachable(url: str, why: str) -> UnavailableError:
    """The one message for a target that is not there."""
    return UnavailableError(f"--target {url}: nobody answers ({why}); start the server, or correct the address")
