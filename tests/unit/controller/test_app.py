"""The controller's shell on one event loop, with processes that are not there."""

from __future__ import annotations

import asyncio

import pytest

from services.controller.app import Controller
from services.controller.config import ControllerConfig
from tests.api.worker_host import FakeHost


@pytest.mark.parametrize("turns", range(8))
async def test_closing_ends_it_whatever_its_loop_is_about_to_do(turns: int) -> None:
    controller = Controller("c", {"prefill": ("prefill-0",)}, ControllerConfig(ping_every_s=60.0), FakeHost())
    await controller.start()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (await controller.status()).ready
    await controller.scale_pool("prefill", 2)  # wakes the reconcile loop
    for _ in range(turns):
        await asyncio.sleep(0)
    closing = asyncio.create_task(controller.close())
    for _ in range(50):
        await asyncio.sleep(0)
    assert closing.done()
