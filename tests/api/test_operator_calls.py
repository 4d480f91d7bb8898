"""What operators ask of a front door beside its workers: its view, a placement explained, the response cache."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.core.config import parse
from services.pb import cluster_pb2 as pb
from services.router.config import RouterConfig
from services.router.flow import RequestFlow
from services.semcache.config import SemcacheConfig
from tests.api.harness import ask, serving, status_of_call
from tests.api.test_response_cache import FAQ, question, tell, until
from tests.unit.frontdoor.fakes import DECODE, PREFILL
from tests.unit.frontdoor.reports import report_of

Code = grpc.StatusCode
EXACT_ONLY = parse(SemcacheConfig, {"enabled": True, "semantic": False})
TURN = pb.PromptTurn(role="user", text="Who wrote Hamlet?")


async def test_the_view_tells_workers_reservations_and_what_was_learned(tmp_path: Path) -> None:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow) as served:
        for number in range(9):
            await tell(served, ask(f"step.{number}", "some text"))
        call = served.inference.Generate(ask("hang.1", "some text"))
        await call.initial_metadata()
        view = await served.cluster.DumpView(pb.DumpViewRequest())
        call.cancel()
        await until(lambda: not served.performer.num_running)
    assert [worker.id for worker in view.workers] == ["decode-0", "prefill-0"]
    decode, prefill = view.workers
    assert (list(decode.roles), list(prefill.roles)) == (["decode"], ["prefill"])
    assert prefill.reserved_prompts == 10 and prefill.turn >= 10, "its reports never counted them"
    assert decode.reserved_decodes + decode.running_decodes >= 1
    (lengths,) = view.lengths
    assert lengths.observations == 9 and 1 <= lengths.p50_tokens <= lengths.p90_tokens
    assert {pool.pool for pool in view.pools} == {"prefill", "decode"}
    assert [transfer.same_host for transfer in view.transfers] == [False, True]
    assert view.figures["reservations"] >= 1 and view.front_door == "frontdoor-1"


async def test_an_explained_placement_is_what_happens_and_changes_nothing(tmp_path: Path) -> None:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow) as served:
        before = repr(flow.state())
        told = await served.cluster.ExplainPlacement(pb.ExplainPlacementRequest(prompt="hello", max_tokens=9))
        assert repr(flow.state()) == before
        call = served.inference.Generate(ask("step.1"), metadata=(("x-debug", "route"),))
        assert [each async for each in call]
        real = dict(await call.initial_metadata())["x-route-decision"]
        assert isinstance(real, str) and told.decision.split()[0] == real.split()[0] == "path=handoff"
        assert (told.admission, told.prompt_tokens) == ("taken", 4)
        by_stage = {(each.worker, each.stage): each for each in told.candidates}
        assert by_stage["prefill-0", "prefill"].chosen and by_stage["decode-0", "decode"].chosen
        assert by_stage["prefill-0", "prefill"].ttft_ms > 0
        assert by_stage["decode-0", "prefill"].excluded_by == "has_role"
        # An objective that idle workers keep, and their load does not.
        served.performer._feed(replace(report_of(PREFILL, 99), queued_prefill_tokens=100_000))
        late = await served.cluster.ExplainPlacement(pb.ExplainPlacementRequest(prompt_tokens=64, ttft_slo_ms=500))
        assert (late.admission, late.reason) == ("rejected", "PREDICTED_TTFT") and late.retry_after_ms > 0
        assert not flow.holding.refused, "nobody was refused"
        served.performer._feed(report_of(DECODE, 99, draining=True))
        none = await served.cluster.ExplainPlacement(pb.ExplainPlacementRequest(prompt_tokens=64))
        assert (none.admission, none.reason, none.decision) == ("rejected", "NO_WORKERS", "")
        by_stage = {(each.worker, each.stage): each for each in none.candidates}
        assert by_stage["decode-0", "decode"].excluded_by == "not_draining"
        for wrong in (pb.ExplainPlacementRequest(), pb.ExplainPlacementRequest(prompt="x", prompt_tokens=2)):
            code, _, _ = await status_of_call(served.cluster.ExplainPlacement(wrong))
            assert code is Code.INVALID_ARGUMENT
        code, _, _ = await status_of_call(
            served.cluster.ExplainPlacement(pb.ExplainPlacementRequest(prompt="x", tenant="nobody"))
        )
        assert code is Code.NOT_FOUND


async def test_answers_are_explained_counted_and_ended(tmp_path: Path) -> None:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow, semcache=EXACT_ONLY) as served:
        await tell(served, question("step.1", TURN.text), FAQ)
        await tell(served, question("step.2", "def f(x): return x"))
        about = pb.ExplainCacheRequest(messages=[TURN], category="faq")
        told = await served.cluster.ExplainCache(about)
        assert (told.outcome, told.category_source, told.scope) == ("hit", "hint", "tenant")
        assert told.semantic_refused == "exact_only" and "sampling" in told.fields
        (known,) = told.candidates
        assert (known.exact_key, known.tier, known.refused_by) == (told.exact_key, "exact", "")
        unhinted = await served.cluster.ExplainCache(pb.ExplainCacheRequest(messages=[TURN]))
        assert unhinted.outcome == "miss" and unhinted.exact_key != told.exact_key
        hot = await served.cluster.ExplainCache(pb.ExplainCacheRequest(messages=[TURN], temperature=1.9))
        assert (hot.outcome, hot.read_refused) == ("bypass", "temperature")
        stats = await served.cluster.GetCacheStats(pb.GetCacheStatsRequest())
        assert stats.enabled and not stats.shared and stats.entries == 2
        assert {each.name: each.entries for each in stats.categories if each.entries} == {"faq": 1, "code": 1}
        looked = {(each.outcome, each.category): each.count for each in stats.counts if each.tier == "exact"}
        assert looked == {("miss", "faq"): 1, ("miss", "code"): 1}, "explanations are not counted"

        async def end(**chosen: object) -> int:
            request = pb.InvalidateCacheRequest(**chosen)  # type: ignore[arg-type]
            return (await served.cluster.InvalidateCache(request)).entries

        assert await end(category="faq", dry_run=True) == 1 == await end(category="faq")
        assert (await tell(served, question("step.3", TURN.text), FAQ))[0] == "miss"
        assert await end(exact_key=told.exact_key, dry_run=True) == 1 == await end(exact_key=told.exact_key)
        assert await end(model="tiny", dry_run=True) == 1 == await end(everything=True)
        assert await end(everything=True) == 0
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as client:
            metrics = (await client.get("/metrics")).text
        for told in ('invalidations_total{selection="everything"} 2.0', 'lookup_seconds_count{model_name="tiny"} 3.0'):
            assert f"triptych_cache_{told}" in metrics
        for wrong in ({}, {"everything": False}, {"exact_key": "zz"}):
            code, _, _ = await status_of_call(served.cluster.InvalidateCache(pb.InvalidateCacheRequest(**wrong)))
            assert code is Code.INVALID_ARGUMENT, wrong
        for missing in ({"category": "cats"}, {"model": "huge"}, {"tenant": "nobody"}):
            code, _, _ = await status_of_call(served.cluster.InvalidateCache(pb.InvalidateCacheRequest(**missing)))
            assert code is Code.NOT_FOUND, missing


async def test_a_wrong_answer_is_not_kept_again(tmp_path: Path) -> None:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow, semcache=EXACT_ONLY) as served:
        await tell(served, question("step.1", TURN.text), FAQ)
        told = await served.cluster.ExplainCache(pb.ExplainCacheRequest(messages=[TURN], category="faq"))
        judged = pb.DeleteCacheEntryRequest(exact_key=told.exact_key, wrong=True)
        assert (await served.cluster.DeleteCacheEntry(judged)).found
        assert not (await served.cluster.DeleteCacheEntry(judged)).found
        for number in (2, 3):
            assert (await tell(served, question(f"step.{number}", TURN.text), FAQ))[0] == "miss"
        assert served.performer.lookups.cache is not None
        assert served.performer.lookups.cache.cache.skipped == {"bad": 2}


@pytest.mark.parametrize("call", ["ExplainCache", "InvalidateCache", "DeleteCacheEntry"])
async def test_without_a_cache_there_is_nothing_to_ask(tmp_path: Path, call: str) -> None:
    async with serving(tmp_path) as served:
        assert not (await served.cluster.GetCacheStats(pb.GetCacheStatsRequest())).enabled
        code, reason, _ = await status_of_call(getattr(served.cluster, call)(getattr(pb, f"{call}Request")()))
        assert (code, reason) == (Code.FAILED_PRECONDITION, "NO_CACHE")


async def test_the_command_line_shows_all_of_it(tmp_path: Path) -> None:
    flow = RequestFlow("frontdoor-1", RouterConfig(), 16)
    async with serving(tmp_path, real_flow=flow, semcache=EXACT_ONLY) as served:
        await tell(served, question("step.1", TURN.text), FAQ)

        async def cli(*arguments: str) -> tuple[int, str]:
            server = f"127.0.0.1:{served.servers.grpc_port}"
            found = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--server", server])
            return found.exit_code, found.stdout

        code, shown = await cli("view")
        assert code == 0 and "prefill-0" in shown and "prefill overhead" in shown
        assert json.loads((await cli("view", "--json"))[1])["front_door"] == "frontdoor-1"
        code, shown = await cli("explain", TURN.text)
        assert code == 0 and shown.startswith("taken") and "chosen" in shown and "has_role" in shown
        assert json.loads((await cli("explain", "--prompt-tokens", "64", "--json"))[1])["prompt_tokens"] == 64
        code, shown = await cli("cache", "stats")
        assert code == 0 and "1 answers" in shown and "knowledge" in shown
        told = json.loads((await cli("cache", "explain", TURN.text, "--category", "faq", "--json"))[1])
        assert told["outcome"] == "hit"
        assert "would be given" in (await cli("cache", "explain", TURN.text, "--category", "faq"))[1]
        assert "1 answers would end" in (await cli("cache", "invalidate", "--category", "faq", "--dry-run"))[1]
        assert "1 answers ended" in (await cli("cache", "invalidate", "--all"))[1]
        assert "no such answer" in (await cli("cache", "delete", told["exact_key"], "--wrong"))[1]
        assert (await cli("cache", "invalidate"))[0] == 1
