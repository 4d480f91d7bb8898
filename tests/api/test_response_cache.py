"""The response cache behind both doors: equal requests are answered without a worker, others never are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.core.config import parse
from services.core.request import SamplingParams
from services.frontdoor.response_cache import IGNORED, key_fields
from services.pb import inference_pb2 as pb
from services.router.config import RouterConfig
from services.router.flow import RequestFlow
from services.semcache.config import SemcacheConfig
from tests.api.harness import Served, ask, serving
from tests.factories import make_request

CACHE = parse(SemcacheConfig, {"enabled": True, "semantic": False})
ROUTE = ("x-debug", "route")
FAQ = ("x-category", "faq")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow, semcache=CACHE) as found:
        yield found
        flow.check()
        assert found.performer.cache is not None
        found.performer.cache.cache.check()


async def tell(
    served: Served, message: pb.GenerateRequest, *metadata: tuple[str, str]
) -> tuple[str, list[pb.GenerateResponse]]:
    """(x-cache, all messages)."""
    call = served.inference.Generate(message, metadata=(ROUTE, *metadata))
    messages = [each async for each in call]
    return str(dict(await call.initial_metadata())["x-cache"]), messages


def told(messages: list[pb.GenerateResponse]) -> tuple[str, list[int], pb.Finished]:
    """Text, ids and end of the one output."""
    deltas = [each.delta for each in messages if each.WhichOneof("event") == "delta"]
    ids = [token_id for delta in deltas for token_id in delta.token_ids]
    (finished,) = (each.finished for each in messages if each.WhichOneof("event") == "finished")
    finished.usage.cached_tokens = 0  # of the prefix cache: a hit computes nothing
    return "".join(delta.text for delta in deltas), ids, finished


async def test_an_equal_request_is_replayed_without_a_worker(served: Served) -> None:
    first = await tell(served, ask("step.1", "why is it é 🙂?"))
    again = await tell(served, ask("step.2", "why is it é 🙂?"))
    assert (first[0], again[0]) == ("miss", "exact")
    assert told(first[1]) == told(again[1])
    assert again[1][0].WhichOneof("event") == "started"
    assert [each.WhichOneof("event") for each in again[1]][-2:] == ["finished", "usage"]
    assert len(served.workers.submitted) == 1 and served.performer.num_running == 0


async def test_a_cache_that_fails_is_a_miss_and_is_counted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    response_cache = served.performer.cache
    assert response_cache is not None

    def fail(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(response_cache, "find", fail)
    monkeypatch.setattr(response_cache, "keep", fail)
    for number in (1, 2):
        found, messages = await tell(served, ask(f"fails.{number}", "what if it fails?"), FAQ)
        assert found == "miss" and told(messages)[1]
    assert response_cache.cache.counts["exact", "error", "failed", "faq"] == 2
    assert response_cache.cache.skipped["error"] == 2


async def test_both_doors_and_a_stream_or_not_share_answers(served: Served) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi there"}], "temperature": 0, "max_tokens": 60}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as client:
        headers = dict([ROUTE])
        whole = await client.post("/v1/chat/completions", json=body, headers=headers)
        again = await client.post("/v1/chat/completions", json=body, headers=headers)
        streamed = await client.post("/v1/chat/completions", json={**body, "stream": True}, headers=headers)
        metrics = (await client.get("/metrics")).text
    assert [each.headers["x-cache"] for each in (whole, again, streamed)] == ["miss", "exact", "exact"]
    assert whole.json()["choices"] == again.json()["choices"]
    assert streamed.text.rstrip().endswith("data: [DONE]")
    message = pb.GenerateRequest(request_id="grpc", model="tiny", sampling=pb.Sampling(max_tokens=60, temperature=0))
    message.messages.add(role="user").content.add(text="hi there")
    assert (await tell(served, message))[0] == "exact"
    assert 'triptych_cache_requests_total{category="other",outcome="hit",tier="exact"} 2.0' in metrics
    assert "triptych_cache_entries 1.0" in metrics


async def test_what_is_not_equal_or_not_wanted_is_computed(served: Served) -> None:
    prompt = "some text that is asked"
    assert (await tell(served, ask("step.1", prompt), FAQ))[0] == "miss"
    assert (await tell(served, ask("step.2", prompt), FAQ))[0] == "exact"
    assert (await tell(served, ask("step.3", prompt)))[0] == "miss", "another scope"
    assert (await tell(served, ask("step.4", prompt + "."), FAQ))[0] == "miss"
    assert (await tell(served, ask("step.5", prompt, sampling=pb.Sampling(max_tokens=40)), FAQ))[0] == "miss"
    assert (await tell(served, ask("step.6", prompt), FAQ, ("x-cache-control", "no-cache")))[0] == "miss"
    hot = pb.Sampling(temperature=1.5)
    for number in (7, 8):
        assert (await tell(served, ask(f"step.{number}", prompt, sampling=hot), FAQ))[0] == "miss"
    for number in (9, 10):
        assert (await tell(served, ask(f"step.{number}", "what is the weather")))[0] == "miss"


async def test_a_wrong_wish_is_refused_with_its_name(served: Served) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as client:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 4}
        answer = await client.post("/v1/completions", json=body, headers={"x-cache-control": "fresh"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "x-cache-control"


def question(name: str, text: str) -> pb.GenerateRequest:
    """One user turn."""
    message = ask(name, "")
    message.messages.add(role="user").content.add(text=text)
    return message


async def test_other_words_for_the_same_question_are_a_hit_and_a_trap_is_none(tmp_path: Path) -> None:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow, semcache=parse(SemcacheConfig, {"enabled": True})) as served:
        first = await tell(served, question("step.1", "What is the capital of Peru?"), FAQ)
        alike = await tell(served, question("step.2", "What's the capital city of Peru?"), FAQ)
        trap = await tell(served, question("step.3", "What is the capital of Chile?"), FAQ)
        unhinted = await tell(served, question("step.4", "Name the capital of Peru."))
        assert [each[0] for each in (first, alike, trap)] == ["miss", "semantic", "miss"]
        assert told(first[1])[:2] == told(alike[1])[:2] != told(trap[1])[:2]
        assert unhinted[0] in ("semantic", "miss"), "its embedding may say knowledge, or that it is not sure"
        assert len(served.workers.submitted) == 2 + (unhinted[0] == "miss")


CHANGES: dict[str, object] = {
    "prompt": "other",
    "prompt_token_ids": [1],
    "sampling": pb.Sampling(ignore_eos=True),
}
SAMPLING: dict[str, object] = {
    "n": 2,
    "seed": 5,
    "ignore_eos": True,
    "stop": ["x"],
}
RESOLVED = set(SamplingParams.__dataclass_fields__)


def test_every_field_is_in_the_key_or_is_known_to_be_harmless() -> None:
    """A field that is added to the proto fails here until somebody says which it is."""
    request = make_request("r", (1, 2))
    base = key_fields(pb.GenerateRequest(prompt="one"), request)
    for field in pb.GenerateRequest.DESCRIPTOR.fields:
        if field.name in IGNORED | {"messages"}:  # messages go into the key as the conversation
            continue
        message = pb.GenerateRequest(**{"prompt": "one"} | {field.name: CHANGES[field.name]})  # type: ignore[arg-type]
        assert key_fields(message, request) != base, field.name
    for field in pb.Sampling.DESCRIPTOR.fields:
        if field.name in RESOLVED - {"seed"}:  # checked and completed; the request has them
            continue
        sampling = pb.Sampling(**{field.name: SAMPLING[field.name]})  # type: ignore[arg-type]
        assert key_fields(pb.GenerateRequest(prompt="one", sampling=sampling), request) != base, field.name
