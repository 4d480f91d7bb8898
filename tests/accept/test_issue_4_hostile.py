"""300 hostile inputs at the HTTP door: no 5xx but 501, 503 and 504, the process alive, and its memory bounded."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.api.harness import serving
from tests.api.test_hostile import LIMITS, attack_all

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
MAX_GROWTH_BYTES = 300 * 2**20


async def test_three_hundred_hostile_inputs(tmp_path: Path) -> None:
    process = psutil.Process()
    async with serving(tmp_path, http=LIMITS) as served:
        before = process.memory_full_info().pss
        found = await attack_all(served, seed=2026, count=300, num_large=6)
        grown = process.memory_full_info().pss - before
    assert len(found) == 10, sorted(found)
    assert grown <= MAX_GROWTH_BYTES, f"{grown / 2**20:.0f} MB"
    print(f"PSS grew by {grown / 2**20:.0f} MB; statuses {found}")
