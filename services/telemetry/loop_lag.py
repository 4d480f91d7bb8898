"""How late an event loop is: what everything that waits for it waits in vain."""

from __future__ import annotations

import asyncio

from services.core.clock import NS_PER_S, Clock
from services.telemetry.exporter import Exporter
from services.telemetry.metrics import LOOP_LAG

EVERY_S = 0.1


async def watch_loop(exporter: Exporter, clock: Clock) -> None:
    """Observe for good how much later than asked this task is woken."""
    while True:
        asked_ns = clock.now_ns() + round(EVERY_S * NS_PER_S)
        await asyncio.sleep(EVERY_S)
        exporter.observe(LOOP_LAG, (), max(clock.now_ns() - asked_ns, 0) / NS_PER_S)
