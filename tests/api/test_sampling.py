"""Several outputs, log-probabilities, seeds and field errors over a real socket."""

import asyncio
from pathlib import Path

import grpc
import pytest

from services.core.actions import Cancel, RequestOutput, Submit
from services.core.batch import TokenLogprob
from services.core.request import FinishReason, Request
from services.core.seeds import derive_seed
from services.pb import inference_pb2 as pb
from tests.api.harness import Served, ask, details_of, serving
from tests.unit.frontdoor.fakes import PREFILL

LONG = "a prompt of more than sixteen tokens"


async def drain(served: Served, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    return [message async for message in served.inference.Generate(request)]


def submitted(served: Served) -> list[Request]:
    return [event.request for event in served.flow.of(Submit)]


async def test_outputs_are_told_apart_and_each_has_its_end_and_usage(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        messages = await drain(served, ask("echo.1", LONG, sampling=pb.Sampling(n=3, temperature=1.0, seed=5)))
        assert [message.sequence for message in messages] == list(range(1, len(messages) + 1))
        assert messages[0].started.seed == 5
        assert [m.WhichOneof("event") for m in messages].count("started") == 1
        text, ended = ["", "", ""], {}
        for message in messages[1:-1]:
            if message.WhichOneof("event") == "delta":
                assert message.delta.index not in ended
                text[message.delta.index] += message.delta.text
            else:
                ended[message.finished.index] = message.finished
        assert text == [LONG] * 3
        assert sorted(ended) == [0, 1, 2]
        length = messages[0].started.prompt_tokens
        assert ended[2].usage == pb.Usage(prompt_tokens=length, cached_tokens=16, output_tokens=length)
        assert messages[-1].usage == pb.Usage(prompt_tokens=length, cached_tokens=16, output_tokens=3 * length)
        first, second, third = submitted(served)
        assert [first.sampling.seed, second.sampling.seed] == [5, derive_seed(5, "choice/1")]
        assert first.block_hashes == third.block_hashes
        assert served.performer.num_running == 0


async def test_the_others_wait_for_the_first_ones_prompt(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        several = pb.Sampling(n=4, temperature=1.0)
        waiting = served.inference.Generate(ask("silent.1", LONG, sampling=several))
        await anext(aiter(waiting))
        await asyncio.sleep(0.05)
        assert len(submitted(served)) == 1
        served.workers.say(PREFILL, RequestOutput("silent.1", 1, 0, (70,)))
        while len(submitted(served)) < 4:
            await asyncio.sleep(0.005)
        short = served.inference.Generate(ask("silent.2", "he", sampling=several))  # less than a block to share
        await anext(aiter(short))
        while len(submitted(served)) < 8:
            await asyncio.sleep(0.005)
        waiting.cancel()
        short.cancel()
        while served.performer.num_running:
            await asyncio.sleep(0.005)
        assert {event.finish for event in served.flow.of(Cancel)} == {FinishReason.CANCELLED}
        assert len(served.flow.of(Cancel)) == 8


async def test_one_cancel_ends_all_outputs_and_one_failure_ends_the_call(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        several = pb.Sampling(n=3, temperature=1.0)
        call = served.inference.Generate(ask("hang.1", LONG, sampling=several))
        stream = aiter(call)
        await anext(stream)
        while served.performer.num_running < 3:
            await asyncio.sleep(0.005)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drain(served, ask("hang.1"))
        assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
        cancel = pb.CancelGenerationRequest(request_id="hang.1")
        assert (await served.inference.CancelGeneration(cancel)).cancelled
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stream:
                pass
        assert caught.value.code() == grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drain(served, ask("error.1", LONG, sampling=several))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert served.performer.num_running == 0


async def test_a_missing_seed_is_drawn_and_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        seeds = [(await drain(served, ask(f"echo.{n}")))[0].started.seed for n in range(2)]
        assert seeds[0] != seeds[1]
        assert seeds == [request.sampling.seed for request in submitted(served)]
        assert (await drain(served, ask("echo.3", sampling=pb.Sampling(seed=0))))[0].started.seed == 0


async def test_logprobs_come_with_ids_text_and_bytes_and_the_prompts_before_the_first_token(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        sampling = pb.Sampling(logprobs=1, prompt_logprobs=0)
        call = served.inference.Generate(ask("silent.1", "he", sampling=sampling))
        stream = aiter(call)
        await anext(stream)
        e, c3, end = 3 + ord("e"), 3 + 256, 2  # "e"; a space with half a character; a special token
        prompt = tuple(TokenLogprob(e, -position / 8) for position in range(1, 200))
        tokens = (TokenLogprob(c3, -0.5, ((e, -0.25),)), TokenLogprob(end, -1.0, ((end, -1.0),)))
        served.workers.say(PREFILL, RequestOutput("silent.1", 1, 1, (end,), FinishReason.STOP, logprobs=tokens[1:]))
        first = RequestOutput("silent.1", 1, 0, (c3,), logprobs=tokens[:1], prompt_logprobs=prompt)
        served.workers.say(PREFILL, first)
        messages = [message async for message in stream]
        kinds = [message.WhichOneof("event") for message in messages]
        assert kinds == ["prompt_logprobs", "prompt_logprobs", "delta", "finished", "usage"]
        pieces = [message.prompt_logprobs for message in messages[:2]]
        assert [piece.first_position for piece in pieces] == [1, 129]
        assert [each.token.logprob for piece in pieces for each in piece.positions] == [-n / 8 for n in range(1, 200)]
        one, two = messages[2].delta.logprobs
        assert list(messages[2].delta.token_ids) == [c3, end]
        assert one.token == pb.TokenLogprob(token_id=c3, logprob=-0.5, text=" �", utf8_bytes=b" \xc3")
        assert list(one.top) == [pb.TokenLogprob(token_id=e, logprob=-0.25, text="e", utf8_bytes=b"e")]
        assert two.token == pb.TokenLogprob(token_id=end, logprob=-1.0, text="<|im_end|>")
        assert messages[3].finished.stop_token_id == end


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (pb.Sampling(top_p=0.0), "sampling.top_p"),
        (pb.Sampling(logit_bias={9999: 1.0}), "sampling.logit_bias[9999]"),
        (pb.Sampling(n=2), "sampling.n"),
    ],
)
async def test_a_wrong_field_is_named_in_the_details(tmp_path: Path, sampling: pb.Sampling, field: str) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drain(served, ask("echo.1", sampling=sampling))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = details_of(caught.value)["BadRequest"].field_violations  # type: ignore[attr-defined]
        assert violation.field == field
