"""The event loop's lag as the front door tells it."""

from __future__ import annotations

import asyncio
import re
import time

from services.core.clock import WallClock
from services.telemetry.exporter import Exporter
from services.telemetry.loop_lag import EVERY_S, watch_loop


async def test_a_loop_that_was_held_up_is_seen_as_late() -> None:
    exporter = Exporter("frontdoor")
    task = asyncio.create_task(watch_loop(exporter, WallClock()))
    await asyncio.sleep(0)
    time.sleep(EVERY_S + 0.06)  # nothing else runs meanwhile
    await asyncio.sleep(2 * EVERY_S)
    task.cancel()
    found = dict(re.findall(r'lag_seconds_bucket\{le="([^"]+)"\} (\S+)', exporter.text()[0].decode()))
    assert float(found["+Inf"]) - float(found["0.05"]) >= 1
