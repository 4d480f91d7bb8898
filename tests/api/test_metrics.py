"""/metrics over a real socket: what a scraper reads of the front door and, by their reports, of all workers."""

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.api.harness import ask, serving


async def scraped(port: int, accept: str = "") -> tuple[str, dict[tuple[str, ...], float]]:
    """(content type, samples of ours by name and label values)."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    return answer.headers["content-type"], {
        (sample.name.removeprefix("triptych_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_an_answered_and_a_failed_request_are_counted(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        async for _ in served.inference.Generate(ask("a")):
            pass
        content_type, found = await scraped(served.servers.http_port)
        assert content_type.startswith("text/plain; version=")
        assert sum(value for name, value in found.items() if name[0] == "request_success_total") == 1
        assert found["time_to_first_token_seconds_count", "tiny"] == 1
        assert found["e2e_request_latency_seconds_count", "tiny"] == 1
        assert found["num_requests_running",] == 0
        assert found["calls_total", "OK", "grpc", "/triptych.v1.InferenceService/Generate"] == 1


async def test_every_worker_is_shown_by_its_last_report(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, found = await scraped(served.servers.http_port)
        for worker, role in (("prefill-0", "prefill"), ("decode-0", "decode")):
            assert found["kv_blocks", role, "used", worker] == 3
            assert found["kv_blocks", role, "free", worker] == 95
            assert found["report_age_seconds", role, worker] >= 0
            assert found["num_preemptions_total", role, worker] == 7
        openmetrics, _ = await scraped(served.servers.http_port, "application/openmetrics-text; version=1.0.0")
        assert openmetrics.startswith("application/openmetrics-text")
