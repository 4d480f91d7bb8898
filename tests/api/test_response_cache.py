"""The response cache behind both doors: equal requests are answered without a worker, others never are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.core.actions import RequestOutput
from services.core.config import parse
from services.core.door import StreamItem
from services.core.request import FinishReason, SamplingParams
from services.frontdoor.response_cache import IGNORED, key_fields
from services.pb import inference_pb2 as pb
from services.router.config import RouterConfig
from services.router.flow import RequestFlow
from services.semcache.config import SemcacheConfig
from tests.api.harness import Served, ask, serving
from tests.factories import make_request
from tests.unit.frontdoor.fakes import BOTH
from tests.unit.frontdoor.reports import report_of

CACHE = parse(SemcacheConfig, {"enabled": True, "semantic": False})
ROUTE = ("x-debug", "route")
FAQ = ("x-category", "faq")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow, semcache=CACHE) as found:
        yield found
        flow.check()
        assert found.performer.lookups.cache is not None
        found.performer.lookups.cache.cache.check()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


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
    response_cache = served.performer.lookups.cache
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
        # Workers have the request meanwhile; these say nothing before the cache does.
        alike = await tell(served, question("silent.2", "What's the capital city of Peru?"), FAQ)
        await until(lambda: len(served.workers.cancelled) == 2)
        assert {cancelled[1:] for cancelled in served.workers.cancelled} == {
            ("silent.2", FinishReason.CANCELLED, "cache_hit")
        }
        trap = await tell(served, question("step.3", "What is the capital of Chile?"), FAQ)
        unhinted = await tell(served, question("step.4", "Name the capital of Peru."))
        assert [each[0] for each in (first, alike, trap)] == ["miss", "semantic", "miss"]
        assert told(first[1])[:2] == told(alike[1])[:2] != told(trap[1])[:2]
        assert unhinted[0] in ("semantic", "miss"), "its embedding may say knowledge, or that it is not sure"
        assert len(served.workers.submitted) == 4 and flow.looking.overtaken == 1
        again = await tell(served, question("silent.5", "Name the capital of Peru."), FAQ)
        assert again[0] in ("exact", "semantic")


class Judge:
    """Says what it is told to, and remembers what it read."""

    def __init__(self) -> None:
        self.sure = 0.0
        self.read: list[tuple[str, str]] = []

    def same(self, asked: str, known: str, twice: bool = True) -> float:
        self.read.append((asked, known))
        return self.sure


async def test_a_judge_answers_for_wordings_that_the_gate_does_not_know(tmp_path: Path) -> None:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    semcache = parse(SemcacheConfig, {"enabled": True, "judge": {"enabled": True}})
    known, other = "What is the capital of Peru?", "In Peru, which city serves as the capital?"
    async with serving(tmp_path, real_flow=flow, semcache=semcache) as served:
        response_cache = served.performer.lookups.cache
        assert response_cache is not None and response_cache._thread is not None
        judge = response_cache._thread.judge = Judge()
        first = await tell(served, question("step.1", known), FAQ)
        await until(lambda: len(response_cache.cache.index) == 1)  # workers may be faster than the embedder
        unsure = await tell(served, question("step.2", other), FAQ, ("x-cache-control", "no-store"))
        await until(lambda: bool(judge.read))
        assert (first[0], unsure[0], judge.read) == ("miss", "miss", [(other, known)])
        judge.sure = 1.0  # the question is known now, and judged anew
        sure = await tell(served, question("silent.3", other), FAQ)
        assert sure[0] == "semantic" and told(sure[1])[:2] == told(first[1])[:2]
        trap = await tell(served, question("step.4", "In Chile, which city serves as the capital?"), FAQ)
        await until(lambda: len(response_cache.cache.index) == 2)
        assert trap[0] == "miss" and judge.read == [(other, known)] * 2, "nobody judges names"
        assert response_cache._thread.judged == 2


async def test_a_judge_keeps_back_what_the_gate_would_give(tmp_path: Path) -> None:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    known, alike = "What is the capital of Peru?", "Which city is the capital of Peru?"
    async with serving(
        tmp_path, real_flow=flow, semcache=parse(SemcacheConfig, {"enabled": True, "judge": {"veto_below": 0.4}})
    ) as served:
        response_cache = served.performer.lookups.cache
        assert response_cache is not None and response_cache._thread is not None
        judge = response_cache._thread.judge = Judge()
        await tell(served, question("step.1", known), FAQ)
        await until(lambda: len(response_cache.cache.index) == 1)
        refused = await tell(served, question("step.2", alike), FAQ, ("x-cache-control", "no-store"))
        await until(lambda: bool(judge.read))  # the worker may be faster
        assert (refused[0], judge.read) == ("miss", [(alike, known)])
        judge.sure = 0.5
        assert (await tell(served, question("silent.3", alike), FAQ))[0] == "semantic"
        assert response_cache.cache.counts["semantic", "hit", "", "faq"] == 1
        assert not response_cache.cache.counts["semantic", "miss", "unread", "faq"], (
            "what is about to be read is no miss"
        )


async def test_who_waited_is_found_under_what_the_question_turned_out_to_mean(tmp_path: Path) -> None:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow, semcache=parse(SemcacheConfig, {"enabled": True})) as served:
        names = [f"silent.{number}" for number in range(3)]
        asked = [asyncio.create_task(tell(served, question(name, "How deep is Lake Baikal?"))) for name in names]
        await until(lambda: bool(served.workers.submitted) and waiting(served, 2)())
        await served.workers.step(served.workers.submitted[0][2])
        assert sorted([(await each)[0] for each in asked]) == ["exact", "exact", "miss"]
        response_cache = served.performer.lookups.cache
        assert response_cache is not None and response_cache._thread is not None
        assert response_cache._thread.embedded == 1 and served.performer.lookups.shared == {"answered": 2}


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
    "structured": pb.Structured(json_object=True),
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


def waiting(served: Served, count: int) -> Callable[[], bool]:
    return lambda: len(served.performer.lookups._waiting) == count


def calls_of(served: Served, message: pb.GenerateRequest) -> asyncio.Task[Any]:
    return asyncio.create_task(tell(served, message, FAQ))


def calls(served: Served, *names: str, prompt: str = "who is it?", **fields: object) -> list[asyncio.Task[Any]]:
    return [calls_of(served, ask(name, prompt, **fields)) for name in names]


async def test_equal_requests_wait_for_the_one_that_is_computed(served: Served) -> None:
    (leader,) = calls(served, "silent.1")
    await until(lambda: len(served.workers.submitted) == 1)
    others = calls(served, "step.2", "step.3") + calls(served, "step.4", prompt="another question?")
    await until(waiting(served, 2))
    await others[2]
    await served.workers.step(served.workers.submitted[0][2])
    answers = [await each for each in (leader, *others[:2])]
    assert [each[0] for each in answers] == ["miss", "exact", "exact"]
    assert told(answers[0][1]) == told(answers[1][1]) == told(answers[2][1])
    assert len(served.workers.submitted) == 2 and served.performer.lookups.shared == {"answered": 2}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as client:
        assert 'triptych_cache_singleflight_total{outcome="answered"} 2.0' in (await client.get("/metrics")).text


@pytest.mark.parametrize("end", ["cancelled", "failed", "refused", "invalidated"])
async def test_without_an_answer_of_the_first_one_other_is_computed_and_serves_the_rest(
    served: Served, end: str
) -> None:
    lookups, submitted = served.performer.lookups, served.workers.submitted
    (leader,) = calls(served, "silent.1")
    await until(lambda: len(submitted) == 1)
    others = calls(served, "silent.2", "silent.3", "silent.4")
    await until(waiting(served, 3))
    if end == "cancelled":
        leader.cancel()
    elif end == "failed":
        error = RequestOutput("silent.1", submitted[0][2].attempt, 0, (), FinishReason.ERROR, "STEP_FAILED", "a bug")
        served.workers.say(BOTH[0], error)
    elif end == "refused":
        cut = RequestOutput("silent.1", submitted[0][2].attempt, 0, (5, 6), FinishReason.LENGTH)
        served.workers.say(BOTH[1], cut)
    else:
        assert lookups.cache is not None
        lookups.cache.cache.index.invalidate()
        await served.workers.step(submitted[0][2])
    expected = 3 if end in ("refused", "invalidated") else 2
    await until(lambda: len(submitted) == expected)
    assert lookups.shared == {"promoted": expected - 1} and len(lookups._waiting) == 4 - expected
    await served.workers.step(submitted[1][2])
    found = submitted[1][2].request_id
    await until(lambda: lookups.shared["answered"] == 4 - expected)
    for each in submitted[2:]:
        await served.workers.step(each[2])
    answers = [await each for each in others]
    assert sorted(each[0] for each in answers) == ["exact"] * (4 - expected) + ["miss"] * (expected - 1), found
    assert len({told(each[1])[0] for each in answers}) == 1
    await asyncio.wait([leader])


async def test_nobody_waits_longer_than_it_may(served: Served) -> None:
    (leader,) = calls(served, "silent.1")
    await until(lambda: len(served.workers.submitted) == 1)
    assert (await calls(served, "step.2", ttft_slo_ms=20)[0])[0] == "miss", "half of 20 ms, then it is computed"
    assert served.performer.lookups.shared == {"overdue": 1}
    assert (await calls(served, "step.4")[0])[0] == "exact", "one that did not wait has answered them all"
    await served.workers.step(served.workers.submitted[0][2])
    assert (await leader)[0] == "miss"


async def test_a_request_whose_client_leaves_while_it_waits_is_forgotten(served: Served) -> None:
    (leader,) = calls(served, "silent.1")
    await until(lambda: len(served.workers.submitted) == 1)
    (gone,) = calls(served, "step.2")
    await until(waiting(served, 1))
    gone.cancel()
    await until(waiting(served, 0))
    await served.workers.step(served.workers.submitted[0][2])
    assert (await leader)[0] == "miss"
    assert served.performer.lookups.shared == {"gone": 1} and not len(served.performer.lookups._flights)


async def test_reports_of_full_workers_lower_thresholds_until_they_are_at_ease(tmp_path: Path) -> None:
    load = {"enabled": True, "full_queue_tokens": 100}
    semcache = parse(SemcacheConfig, {"enabled": True, "semantic": False, "load": load})
    async with serving(tmp_path, real_flow=RequestFlow("frontdoor-1", RouterConfig(), 16), semcache=semcache) as served:
        assert served.performer.lookups.cache is not None
        policies = served.performer.lookups.cache.cache.policies
        sequence = count(1000)

        async def similarity(queued_tokens: int, ramp: float) -> float:
            while policies.ramp != ramp:  # reports come in, and are looked at now and then
                report = replace(report_of(BOTH[0], next(sequence)), queued_prefill_tokens=queued_tokens)
                now_ns = served.workers.now_ns()
                served.performer.receive(StreamItem("s", report.sequence, now_ns, BOTH[0], 11, report, ()))
                await asyncio.sleep(0.01)
            return policies.policy(("faq",)).min_similarity

        assert await similarity(500, 1.0) == 0.78
        assert await similarity(96, 1.0) == 0.78, "a little less changes nothing"
        assert await similarity(20, 0.0) == 0.8


@pytest.mark.parametrize(("least", "verdict", "precision"), [(0.5, "right", "1.0"), (1.0, "wrong", "0.0")])
async def test_a_semantic_hit_is_computed_as_well_and_no_client_waits_for_it(
    tmp_path: Path, least: float, verdict: str, precision: str
) -> None:
    shadow = {"share": 1.0, "min_similarity": least}
    semcache = parse(SemcacheConfig, {"enabled": True, "shadow": shadow})
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow, semcache=semcache) as served:
        await tell(served, question("step.1", "What is the capital of Peru?"), FAQ)
        alike = await tell(served, question("silent.2", "What's the capital city of Peru?"), FAQ)
        assert alike[0] == "semantic"
        shadows = served.performer.lookups.shadows
        assert shadows is not None
        await until(lambda: bool(shadows.verdicts))
        assert shadows.verdicts == {(verdict, "faq"): 1}
        computed = served.workers.submitted[-1][2]
        assert (computed.request_id[:7], computed.priority) == ("shadow-", -100)
        assert computed.prompt == served.workers.submitted[-2][2].prompt, "the client's own words"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as client:
            metrics = (await client.get("/metrics")).text
        assert f'triptych_cache_semantic_precision{{category="faq"}} {precision}' in metrics
        assert 'triptych_request_success_total{finished_reason="stop",model_name="tiny"} 2.0' in metrics, (
            "clients' alone"
        )
        assert served.performer.num_running == 0


async def test_an_answer_that_came_after_the_model_s_is_compared_with_it(tmp_path: Path) -> None:
    semcache = parse(SemcacheConfig, {"enabled": True, "shadow": {"share": 0.001}})
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow, semcache=semcache) as served:
        await tell(served, question("step.1", "What is the capital of Peru?"), FAQ)
        asked = calls_of(served, question("silent.2", "What's the capital city of Peru?"))
        await until(lambda: len(served.workers.submitted) == 2)
        request = served.workers.submitted[1][2]
        served.workers.say(BOTH[0], RequestOutput("silent.2", request.attempt, 0, request.prompt[:1]))
        await until(lambda: flow.looking.late == 1)
        rest = RequestOutput("silent.2", request.attempt, 1, request.prompt[1:], FinishReason.STOP)
        served.workers.say(BOTH[1], rest)
        assert (await asked)[0] == "miss"
        shadows = served.performer.lookups.shadows
        assert shadows is not None
        await until(lambda: shadows.verdicts == {("right", "faq"): 1})
        assert len(served.workers.submitted) == 2, "nothing was computed for it"
