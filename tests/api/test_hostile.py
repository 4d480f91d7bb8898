"""A seeded slice of tests/accept/test_issue_4_hostile.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.api.harness import Served, serving
from tests.api.hostile import ALLOWED_5XX, CHATS, attacks, perform, right_body

LIMITS = {"header_timeout_s": 0.5, "body_timeout_s": 0.5, "idle_timeout_s": 0.5}


async def attack_all(served: Served, seed: int, count: int, num_large: int) -> dict[str, set[int]]:
    """Statuses by kind; nothing may be left of it, and the door must go on to serve."""
    found: dict[str, set[int]] = {}
    gate = asyncio.Semaphore(8)

    async def one(attack) -> None:  # type: ignore[no-untyped-def]
        async with gate:
            statuses = await perform(served.servers.http_port, attack)
        bad = [status for status in statuses if status >= 500 and status not in ALLOWED_5XX]
        assert not bad, (attack.kind, bad, attack.data[:300])
        found.setdefault(attack.kind, set()).update(statuses)

    await asyncio.gather(*(one(attack) for attack in attacks(seed, count, num_large)))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as client:
        assert (await client.post(CHATS, json=right_body(CHATS))).status_code == 200
    while served.performer.num_running or served.servers._http.server_state.connections:
        await asyncio.sleep(0.02)
    return found


async def test_hostile_input_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, http=LIMITS) as served:
        found = await attack_all(served, seed=1, count=44, num_large=1)
    assert {"field", "deep", "bytes", "headers", "path", "large"} <= set(found)
    assert found["large"] == {413} and found["headers"] <= {400, 431} and 400 in found["field"]
