"""The commands against a running cluster, as a shell runs them; metrics of every process; what doctor finds there."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.engine.tiny import save_tiny
from tests.cluster.harness import Cluster, running, wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of a random tiny model, with test hooks."""
    folder = tmp_path_factory.mktemp("cli")
    save_tiny(folder / "model")
    config: dict[str, Any] = {
        "model": {"path": str(folder / "model"), "name": "tiny", "dtype": "float32"},
        "cache": {"memory_bytes": 2**24},
        "testing": {"enabled": True},
        "telemetry": {"log_format": "json"},
    }
    with running(folder / "c", config) as cluster:
        yield cluster


def answer(cluster: Cluster, *arguments: str, code: int = 0) -> Any:
    """The JSON document that a command prints."""
    done = cluster.cli(*arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def scraped(address: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Samples of a target by name."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=10) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_chat_tells_what_an_answer_cost(tiny: Cluster) -> None:
    told = answer(tiny, "chat", "hello", "--max-tokens", "5", "--timeline", "--system", "Be short.")
    assert 0 < told["output_tokens"] <= 5
    assert told["ttft_ms"] > 0
    assert {"received", "prefill_end", "finished"} <= {mark["name"] for mark in told["timeline"]}
    plain = tiny.cli("chat", "hello", "--max-tokens", "5")
    assert plain.returncode == 0
    assert "TTFT" in plain.stderr
    assert "tok/s" in plain.stderr
    assert plain.stdout.strip()


def test_status_is_readable_in_eighty_columns_and_without_colour(tiny: Cluster) -> None:
    for command in (("status",), ("top", "--count", "1")):
        shown = tiny.cli(*command).stdout
        assert "\x1b[" not in shown
        assert max(map(len, shown.splitlines())) <= 80, shown
        for word in ("prefill-0", "decode-0", "ready", "tiny", "KV used"):
            assert word in shown, shown
    looks = tiny.cli("top", "--count", "2", "--every", "0.2", "--json").stdout.splitlines()
    assert [json.loads(look)["ready"] for look in looks] == [True, True]


def test_every_process_has_a_scrape_target(tiny: Cluster) -> None:
    assert tiny.generate("count me", max_tokens=4, ignore_eos=True).error is None
    tiny.wait_idle()
    status = wait_for(lambda: (s := answer(tiny, "status"))["metrics_address"] and s, 60, "the controller's address")
    workers = {worker["id"]: worker for worker in status["workers"]}
    for worker_id, worker in workers.items():
        found = scraped(worker["metrics_address"])
        blocks = {labels["state"]: value for labels, value in found["triptych_kv_blocks"]}
        assert blocks["used"] == 0
        assert sum(blocks.values()) == worker["kv_blocks_total"]
        assert all(labels["worker"] == worker_id for labels, _ in found["triptych_kv_blocks"])
        assert found["process_resident_memory_bytes"][0][1] > 0
    pools = {labels["pool"]: value for labels, value in scraped(status["metrics_address"])["triptych_workers"]}
    assert pools == {"prefill": 1, "decode": 1}
    (own,) = status["front_doors"]  # and on the port that all front doors share
    assert own["id"] == status["front_door"]
    assert scraped(own["metrics_address"]).keys() >= {"triptych_kv_blocks", "triptych_request_success_total"}
    door = scraped(f"127.0.0.1:{tiny.http_port}")
    assert {labels["worker"] for labels, _ in door["triptych_kv_blocks"]} == set(workers)
    ended = {labels["finished_reason"]: value for labels, value in door["triptych_request_success_total"]}
    assert ended["length"] >= 1
    assert door["triptych_kv_handoff_time_seconds_count"][0][1] >= 1


def test_doctor_measures_links_and_finds_a_dead_store(tiny: Cluster) -> None:
    report = answer(tiny, "doctor", code=0)
    assert report["ok"], report
    assert {check["name"] for check in report["checks"]} >= {"versions", "links", "exactness", "workers"}
    (link,) = report["measured"]["links"]
    assert (link["sender"], link["receiver"]) == ("prefill-0", "decode-0")
    assert link["bytes_per_s"] > 1e6
    assert link["latency_us"] > 0
    tiny.arm("decode-0", "probing=0:store-death")
    report = answer(tiny, "doctor", code=1)
    (finding,) = [each for each in report["findings"] if each["code"] == "link_broken"]
    assert "prefill-0 -> decode-0" in finding["detail"]
    assert "drain" in finding["fix"]


def test_scale_starts_workers_and_drain_takes_one_out_for_good(tiny: Cluster) -> None:
    scaled = answer(tiny, "scale", "decode=2")
    assert scaled == {"pools": {"decode": ["decode-0", "decode-1"]}, "reached": True}
    drained = answer(tiny, "drain", "decode-0")
    assert drained == {"worker": "decode-0", "gone": True, "pool_replicas": 1}
    assert [worker["id"] for worker in answer(tiny, "status")["workers"]] == ["decode-1", "prefill-0"]
    assert tiny.generate("still here", max_tokens=4, ignore_eos=True).error is None
    for arguments, words in ((("drain", "decode-7"), "decode-7"), (("scale", "encode=1"), "encode")):
        refused = tiny.cli(*arguments)
        assert refused.returncode == 1, refused.stdout
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
    assert tiny.cli("scale", "decode").returncode == 2
