"""Issue 4, HTTP through a whole cluster: the official client beside gRPC, and ends of calls at every stage."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from services.core.clock import NS_PER_MS
from services.core.config import DEFAULT_MODEL
from services.engine.checkpoint import prepare_model
from services.pb import inference_pb2, inference_pb2_grpc
from tests.accept.test_issue_4_grpc import LATEST_NS, PROMPTS, STAGES, Stage, ended_and_last_step
from tests.cluster.conftest import cluster_config
from tests.cluster.harness import Cluster, running

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1200)]
CACHE = Path(__file__).parents[2] / ".cache" / "models"
CHAT: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
MS_PER_S = 1000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A float32 cluster whose decisions are recorded."""
    folder = tmp_path_factory.mktemp("http")
    with running(folder, cluster_config(prepare_model(DEFAULT_MODEL, CACHE), folder)) as started:
        assert started.generate([1, 2, 3], max_tokens=4).error is None
        yield started


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[openai.OpenAI]:
    base = f"http://127.0.0.1:{cluster.http_port}/v1"
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as found:
        yield found


def model_of(client: openai.OpenAI) -> str:
    (model,) = client.models.list().data
    return str(model.id)


def over_grpc(cluster: Cluster, **fields: Any) -> list[inference_pb2.GenerateResponse]:
    stub = inference_pb2_grpc.InferenceServiceStub(cluster.channel)
    return list(stub.Generate(inference_pb2.GenerateRequest(**fields), timeout=120))


def test_a_greedy_chat_says_what_grpc_says_streamed_and_not(cluster: Cluster, client: openai.OpenAI) -> None:
    turn = inference_pb2.Message(role="user", content=[inference_pb2.ContentPart(text=CHAT[0]["content"])])
    sampling = inference_pb2.Sampling(max_tokens=24)
    expected = "".join(message.delta.text for message in over_grpc(cluster, messages=[turn], sampling=sampling))
    fields: dict[str, Any] = {"model": model_of(client), "messages": CHAT, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**fields)
    assert whole.choices[0].message.content == expected
    assert whole.usage is not None and whole.usage.prompt_tokens_details is not None
    assert whole.usage.prompt_tokens_details.cached_tokens and whole.usage.prompt_tokens_details.cached_tokens >= 16
    stream = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    stop = expected[3:9]
    cut = client.chat.completions.create(**fields, stop=[stop])
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (expected.partition(stop)[0], "stop")
    cluster.wait_idle(3)


def test_seeded_outputs_repeat_and_differ_among_themselves(cluster: Cluster, client: openai.OpenAI) -> None:
    def ask() -> list[str]:
        answer = client.chat.completions.create(
            model=model_of(client), messages=CHAT, n=3, seed=5, temperature=1.2, max_tokens=16
        )
        return [choice.message.content or "" for choice in answer.choices]

    assert ask() == ask()
    assert len(set(ask())) > 1


def test_an_echo_scores_the_prompt_as_grpc_does(cluster: Cluster, client: openai.OpenAI) -> None:
    prompt = "The quick brown fox"
    answer = client.completions.create(
        model=model_of(client), prompt=prompt, echo=True, logprobs=2, max_tokens=1, temperature=0
    )
    sampling = inference_pb2.Sampling(max_tokens=1, logprobs=2, prompt_logprobs=2)
    messages = over_grpc(cluster, prompt=prompt, sampling=sampling)
    told = [each.token.logprob for message in messages for each in message.prompt_logprobs.positions]
    told += [each.token.logprob for message in messages for each in message.delta.logprobs]
    scores = answer.choices[0].logprobs
    assert scores is not None and scores.token_logprobs is not None and scores.text_offset is not None
    assert scores.token_logprobs == [None, *told]
    text = answer.choices[0].text
    assert text.startswith(prompt)
    places = [*scores.text_offset, len(text)]
    assert [text[a:b] for a, b in itertools.pairwise(places)] == scores.tokens


@contextlib.contextmanager
def streaming(cluster: Cluster, name: str, prompt: list[int], timeout_s: float) -> Iterator[Iterator[str]]:
    """The lines of a running stream of that id."""
    body = {"model": DEFAULT_MODEL, "prompt": prompt, "max_tokens": 120, "ignore_eos": True, "stream": True}
    headers = {"x-request-id": name, "x-request-timeout-ms": str(int(timeout_s * MS_PER_S))}
    url = f"http://127.0.0.1:{cluster.http_port}/v1/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as answer:
        yield answer.iter_lines()


def reach(lines: Iterator[str], stage: Stage) -> None:
    """Read until the stage is reached."""
    for _ in range(stage.after_tokens):
        next(line for line in lines if '"text":' in line)
    time.sleep(stage.after_s)


@pytest.mark.parametrize("way", ["disconnect", "deadline"])
@pytest.mark.parametrize("name", ["prefill", "handoff", "decode"])
def test_an_end_stops_its_steps_and_frees_its_blocks(cluster: Cluster, name: str, way: str) -> None:
    stage, request_id, prompt = STAGES[name], f"{name}.{way}", PROMPTS.next(STAGES[name].prompt)
    if way == "disconnect" and stage.after_tokens == 0:  # nothing comes before the first token, not even headers
        url = f"http://127.0.0.1:{cluster.http_port}/v1/completions"
        body = {"model": DEFAULT_MODEL, "prompt": prompt, "max_tokens": 120, "ignore_eos": True, "stream": True}
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.post(url, json=body, headers={"x-request-id": request_id}, timeout=stage.after_s)
    elif way == "disconnect":
        with streaming(cluster, request_id, prompt, 120.0) as lines:
            reach(lines, stage)
    else:
        with streaming(cluster, f"{name}.probe", PROMPTS.next(stage.prompt), 120.0) as lines:
            begun = time.monotonic()
            reach(lines, Stage(stage.prompt, max(stage.after_tokens, 1), 0.0))
            took_s = time.monotonic() - begun
        cluster.wait_idle(10)
        timeout_s = took_s / 3 if stage.after_tokens == 0 else took_s + 0.02
        with streaming(cluster, request_id, prompt, timeout_s) as lines:
            told = list(lines)
        assert any('"timeout_error"' in line for line in told), told
    cluster.wait_idle(3.0)
    ended, last = ended_and_last_step(cluster.folder / "decisions", request_id)
    after = None if last is None else (last - ended) / NS_PER_MS
    print(f"\n{name:8} {way:10} last step began {'never' if after is None else f'{after:8.1f} ms after the end'}")
    assert last is None or last - ended <= LATEST_NS
