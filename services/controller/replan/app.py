"""Shell of replanning: feeds the machine with traffic and time, runs plans, and scales the pools."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from services.controller.replan.config import ReplanConfig
from services.controller.replan.machine import ApplyPlan, MakePlan, Planned, ReplanEvent, Replanner, TrafficSeen
from services.core.actions import Tick
from services.core.clock import NS_PER_S, Clock
from services.core.wire import TrafficRow

logger = logging.getLogger(__name__)
SOURCE = "replan"


class Planner(Protocol):
    """Makes plans; `PlanCommand` does it with a subprocess."""

    async def plan(self, ask: MakePlan) -> Planned:
        """The plan, or why there is none."""


class Replanning:
    """One controller's replanning.

    Args:
        present: workers by pool that are wanted now.
        scale: have so many workers in a pool; text says why that cannot be.
        note: told of each plan, and of what could not be applied, for those who watch.
    """

    def __init__(
        self,
        config: ReplanConfig,
        planner: Planner,
        present: Callable[[], Mapping[str, int]],
        scale: Callable[[str, int], Awaitable[object]],
        clock: Clock,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._planner, self._present, self._scale, self._clock = planner, present, scale, clock
        self._note = note
        self._machine = Replanner(config, present(), clock.now_ns())
        self._tasks: set[asyncio.Task[None]] = set()
        self._trouble = ""

    @property
    def proposal(self) -> str:
        """For `triptych status`."""
        return self._machine.proposal + self._trouble

    @property
    def outcomes(self) -> dict[str, int]:
        """Plans by what came of them."""
        return dict(self._machine.outcomes)

    def start(self) -> None:
        """Begin to watch."""
        self._spawn(self._run())

    async def close(self) -> None:
        """Stop; a plan that is being made is given up."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hear(self, front_door: str, rows: Sequence[TrafficRow]) -> None:
        """A front door's requests."""
        if rows:
            self.tell(TrafficSeen(front_door, tuple(rows)))

    def tell(self, event: ReplanEvent) -> None:
        """Let the machine handle an event."""
        self._machine.scaled(self._present())
        for action in self._machine.handle(self._clock.now_ns(), event):
            if isinstance(action, MakePlan):
                logger.info("traffic drifted; planning for %.3g requests/s", action.rate)
                self._spawn(self._plan(action))
            else:
                self._spawn(self._apply(action))

    async def _run(self) -> None:
        while True:
            now = self._clock.now_ns()
            await asyncio.sleep((self._machine.next_wake(now) - now) / NS_PER_S)
            self.tell(Tick(SOURCE))

    async def _plan(self, ask: MakePlan) -> None:
        try:
            answer = await self._planner.plan(ask)
        except Exception as error:  # a plan that fails leaves the cluster as it is
            answer = Planned(SOURCE, (), f"no plan: {error}")
        self._trouble = ""
        self.tell(answer)
        logger.info("replan: %s", self._machine.proposal)
        self._note(self._machine.proposal)

    async def _apply(self, plan: ApplyPlan) -> None:
        for pool, replicas in plan.replicas:
            answer = await self._scale(pool, replicas)
            if isinstance(answer, str):
                self._trouble += f"; {pool} stays: {answer}"
                self._note(f"{pool} stays: {answer}")

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await work

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
