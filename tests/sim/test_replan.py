"""The planner that a cluster asks is the real command, run as a process of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.controller.replan.config import ReplanConfig
from services.controller.replan.launch import PlanCommand, write_trace
from services.controller.replan.machine import MakePlan

POOL = "groups:\n  - {device: a100-80g, hosts: 1, devices_per_host: 4, coefficients: published}\n"


def command(folder: Path, **keys: object) -> PlanCommand:
    config = {"mode": "propose", "hardware": str(folder / "pool.yaml"), "slo": "ttft=0.4s,tpot=80ms", "requests": 40}
    return PlanCommand(ReplanConfig(**{**config, **keys}), "opt-13b", {"prefill": 1, "decode": 1})


def test_rows_are_a_trace_in_order_of_arrival(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.jsonl", ((2500, 30, 4), (1000, 20, 5)))
    assert (tmp_path / "trace.jsonl").read_text().splitlines() == [
        '{"arrival_s": 0.0, "input_tokens": 20, "output_tokens": 5}',
        '{"arrival_s": 1.5, "input_tokens": 30, "output_tokens": 4}',
    ]


def test_a_refusal_of_the_planner_is_told(tmp_path: Path) -> None:
    answer = asyncio.run(command(tmp_path).plan(MakePlan(1.0, ((1000, 20, 5), (2000, 30, 4)))))
    assert answer.replicas == () and "pool.yaml" in answer.text, answer


def test_more_traffic_asks_for_more_devices(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(POOL)
    rows = tuple((200 * each, 300 + 37 * each % 600, 12) for each in range(60))
    asked = command(tmp_path, objective="power")
    answer = asyncio.run(asked.plan(MakePlan(4.0, rows)))
    assert "a100-80g" in answer.text, answer
