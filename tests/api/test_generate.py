"""InferenceService over a real socket: messages in order, statuses with details, deadlines, cancellation."""

import asyncio
import math
from pathlib import Path

import grpc
import pytest

from services.core.actions import Cancel, RequestOutput
from services.core.request import FinishReason
from services.pb import inference_pb2 as pb
from tests.api.harness import ask, details_of, serving
from tests.api.test_grpc_lifecycle import DEADLINES_S
from tests.unit.frontdoor.fakes import DECODE, PREFILL

Code = grpc.StatusCode


async def until(condition: object) -> None:
    """Wait for something that other tasks bring about; the test's own limit bounds it."""
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0.005)


async def test_a_stream_is_started_deltas_finished_usage(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        call = served.inference.Generate(ask("echo.1", "he saw é 🙂", include_timeline=True))
        messages = [message async for message in call]
        kinds = [message.WhichOneof("event") for message in messages]
        assert kinds[0] == "started"
        assert kinds[-2:] == ["finished", "usage"]
        assert set(kinds[1:-2]) == {"delta"}
        assert [message.sequence for message in messages] == list(range(1, len(messages) + 1))
        seed = messages[0].started.seed
        assert messages[0].started == pb.Started(request_id="echo.1", model="tiny", prompt_tokens=12, seed=seed)
        deltas = [message.delta for message in messages[1:-2]]
        assert "".join(delta.text for delta in deltas) == "he saw é 🙂"
        places = [(delta.token_index, len(delta.token_ids)) for delta in deltas]
        assert [place for place, _ in places] == [sum(count for _, count in places[:n]) for n in range(len(places))]
        finished = messages[-2].finished
        assert finished.finish_reason == pb.FINISH_REASON_STOP
        assert finished.stop_token_id == deltas[-1].token_ids[-1]
        assert finished.usage == messages[-1].usage
        assert [event.name for event in finished.timeline] == [
            *("received", "tokenized", "dispatched", "first_token", "finished")
        ]
        assert messages[-1].usage == pb.Usage(prompt_tokens=12, cached_tokens=16, output_tokens=12)
        metadata = dict(await call.initial_metadata())
        assert metadata["x-request-id"] == "echo.1"


async def test_a_request_without_an_id_gets_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        stub = served.inference
        named = stub.Generate(pb.GenerateRequest(prompt="x"), metadata=(("x-request-id", "echo.7"),))
        assert (await anext(aiter(named))).started.request_id == "echo.7"
        made = stub.Generate(pb.GenerateRequest(prompt="x"))
        assert (await anext(aiter(made))).started.request_id.startswith("req-")


@pytest.mark.parametrize(
    ("request_", "code", "reason", "others"),
    [
        (ask("echo.1", ""), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT", {"BadRequest"}),
        (
            ask("echo.1", sampling=pb.Sampling(temperature=math.nan)),
            Code.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
            {"BadRequest"},
        ),
        (ask("echo.1", "x" * 200), Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED", {"BadRequest"}),
        (ask("bad id"), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT", {"BadRequest"}),
        (ask("echo.1", model="other"), Code.NOT_FOUND, "MODEL_NOT_FOUND", {"ResourceInfo"}),
        (ask("reject.OverloadedError"), Code.RESOURCE_EXHAUSTED, "SOME_REASON", {"RetryInfo"}),
        (ask("reject.UnavailableError"), Code.UNAVAILABLE, "SOME_REASON", {"RetryInfo"}),
        (
            ask("reject.FailedPreconditionError"),
            Code.FAILED_PRECONDITION,
            "SOME_REASON",
            {"RetryInfo", "PreconditionFailure"},
        ),
        (ask("reject.PromptTooLongError"), Code.INVALID_ARGUMENT, "SOME_REASON", {"BadRequest"}),
        (ask("late.1"), Code.DEADLINE_EXCEEDED, "DEADLINE", set()),
        (ask("error.1"), Code.UNAVAILABLE, "HANDOFF_FAILED", {"RetryInfo"}),
        (ask("gone.1"), Code.UNAVAILABLE, "WORKER_LOST", {"RetryInfo"}),
        (ask("bug.1"), Code.INTERNAL, "INTERNAL", set()),
    ],
    ids=lambda value: getattr(value, "request_id", None),
)
async def test_each_failure_has_its_status_and_details(
    tmp_path: Path, request_: pb.GenerateRequest, code: Code, reason: str, others: set[str]
) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in served.inference.Generate(request_):
                pass
        assert caught.value.code() == code
        details = details_of(caught.value)
        assert set(details) == {"ErrorInfo", *others}
        info = details["ErrorInfo"]
        assert (info.reason, info.domain) == (reason, "triptych.dev")
        if request_.request_id != "bad id":  # such an id is not repeated
            assert info.metadata["request_id"] == request_.request_id
        if "RetryInfo" in details:
            assert details["RetryInfo"].retry_delay.ToMilliseconds() == int(info.metadata["retry_after_ms"])
        if "BadRequest" in details:
            (violation,) = details["BadRequest"].field_violations
            assert violation.field == info.metadata["field"]
        assert served.performer.num_running == 0


async def test_an_unexpected_exception_says_the_request_id_alone(tmp_path: Path, caplog) -> None:
    async with serving(tmp_path) as served:
        served.performer.submit = None  # type: ignore[assignment, method-assign]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(served.inference.Generate(ask("echo.secret"))))
        assert caught.value.code() == Code.INTERNAL
        assert caught.value.details() == "request echo.secret failed inside the server; its log has the details"
        assert "TypeError" in caplog.text


async def test_an_error_after_tokens_ends_the_stream_with_its_status(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        got = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for message in served.inference.Generate(ask("error.1", "he")):
                got.append(message.WhichOneof("event"))
        assert got == ["started", "delta"]
        assert caught.value.code() == Code.UNAVAILABLE


async def test_limits_at_the_door(tmp_path: Path) -> None:
    async with serving(tmp_path, max_running_requests=1) as served:
        running = served.inference.Generate(ask("hang.1"))
        await anext(aiter(running))
        for name, code in (("hang.1", Code.ALREADY_EXISTS), ("echo.2", Code.RESOURCE_EXHAUSTED)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(served.inference.Generate(ask(name))))
            assert caught.value.code() == code
        served.performer.draining = True
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(served.inference.Generate(ask("echo.3"))))
        assert (caught.value.code(), details_of(caught.value)["ErrorInfo"].reason) == (Code.UNAVAILABLE, "DRAINING")


async def test_a_client_that_cancels_frees_its_request_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        call = served.inference.Generate(ask("hang.1"))
        await anext(aiter(call))
        call.cancel()
        await until(lambda: served.workers.cancelled)
        assert served.workers.cancelled == [(PREFILL, "hang.1", FinishReason.CANCELLED, "CLIENT_GONE")]
        assert served.performer.num_running == 0


async def test_a_client_that_breaks_its_connection_frees_its_request(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.servers.grpc_port}") as channel:
            method = channel.unary_stream("/triptych.v1.InferenceService/Generate")
            await anext(aiter(method(ask("hang.1").SerializeToString())))
        await until(lambda: served.workers.cancelled)
        assert served.performer.num_running == 0


async def test_cancelling_while_tokens_flow_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        call = served.inference.Generate(ask("hang.1"))
        for index in range(1, 2000):
            served.workers.say(DECODE, RequestOutput("hang.1", 1, index, (70,)))
        await anext(aiter(call))
        call.cancel()
        await until(lambda: served.performer.num_running == 0)
        assert [event.finish for event in served.flow.of(Cancel)] == [FinishReason.CANCELLED]


async def test_the_clients_deadline_is_the_budget(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for number, timeout_s in enumerate(DEADLINES_S):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in served.inference.Generate(ask(f"hang.{number}"), timeout=timeout_s):
                    pass
            assert caught.value.code() == Code.DEADLINE_EXCEEDED
            await until(lambda: served.performer.num_running == 0)
            if served.workers.submitted:
                break
        await until(lambda: served.workers.cancelled)
        (_, _, request, budget_ms), *_ = served.workers.submitted
        assert request.deadline_unix_ms is not None
        assert budget_ms is not None
        assert 0 < budget_ms <= timeout_s * 1e3


async def test_without_a_deadline_the_servers_default_ends_the_stream(tmp_path: Path) -> None:
    async with serving(tmp_path, default_deadline_s=1.0) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in served.inference.Generate(ask("hang.1")):
                pass
        assert caught.value.code() == Code.DEADLINE_EXCEEDED
        assert details_of(caught.value)["ErrorInfo"].metadata["stage"] == "dispatched"
        await until(lambda: served.workers.cancelled)
        assert served.workers.cancelled[0][2:] == (FinishReason.DEADLINE, "DEADLINE")


async def test_cancel_generation_ends_another_clients_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        call = served.inference.Generate(ask("hang.1"))
        await anext(aiter(call))
        cancel = pb.CancelGenerationRequest(request_id="hang.1")
        assert (await served.inference.CancelGeneration(cancel)).cancelled
        assert not (await served.inference.CancelGeneration(cancel)).cancelled
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        assert caught.value.code() == Code.CANCELLED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.inference.CancelGeneration(pb.CancelGenerationRequest())
        assert caught.value.code() == Code.INVALID_ARGUMENT


async def test_small_calls(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        message = pb.Message(role="user", content=[pb.ContentPart(text="Hi")])
        for request, count in (
            (pb.CountTokensRequest(prompt="hello"), 4),  # "he" is one token
            (pb.CountTokensRequest(model="tiny", messages=[message]), 40),
        ):
            assert (await served.inference.CountTokens(request)).prompt_tokens == count
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.inference.CountTokens(pb.CountTokensRequest())
        assert caught.value.code() == Code.INVALID_ARGUMENT
        models = await served.inference.ListModels(pb.ListModelsRequest())
        assert list(models.models) == [pb.Model(id="tiny", max_model_len_tokens=128, dtype="float32")]


async def test_a_message_above_the_limit_is_refused_by_size(tmp_path: Path) -> None:
    async with serving(tmp_path, max_message_bytes=2**16) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.inference.CountTokens(pb.CountTokensRequest(prompt="x" * 2**17))
        assert caught.value.code() == Code.RESOURCE_EXHAUSTED
