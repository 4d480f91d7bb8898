"""All front doors of a simulated cluster: each hosts a flow of its own, and a connection reaches one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from services.cluster.config import ClusterConfig
from services.core.decision_log import DecisionLog
from services.core.request import WorkerRef
from services.core.seeds import stream
from services.router.recorded import flow_from_header, flow_header
from services.sim.door import Calls, Client, SimDoor
from services.sim.event_queue import EventQueue
from services.sim.pools import Options
from services.sim.reports import Mailbox

DOOR = "door"
"""The first one; others are `door-1` and so on. A partition of `door` cuts all of them off: they share a host."""


def door_names(count: int) -> tuple[str, ...]:
    """Their ids."""
    return (DOOR, *[f"{DOOR}-{number}" for number in range(1, count)])


class Doors:
    """The front doors, `frontdoor.replicas` of them.

    Which one a request comes to is drawn at random, as the kernel spreads connections over processes that share a
    port (`SO_REUSEPORT`).

    Args:
        calls: reaches workers.
        mailbox: reports that are read when the only door's flow looks; None: they come as items.
        ended: told of each request that is over.

    Attributes:
        by_name: each front door; `first` of them.
    """

    def __init__(
        self,
        config: ClusterConfig,
        queue: EventQueue,
        calls: Calls,
        mailbox: Mailbox | None,
        options: Options,
        ended: Callable[[Client], None],
    ) -> None:
        self.by_name: dict[str, SimDoor] = {}
        for name in door_names(config.frontdoor.replicas):
            header = flow_header(name, config.router, config.cache.block_size_tokens)
            flow = flow_from_header(header)
            log = None if options.record is None else DecisionLog(options.record(name), flow, "flow", header)
            most = config.frontdoor.max_running_requests
            door = SimDoor(name, flow, queue, calls, mailbox, most, ended, log, options.timelines, options.check)
            door.restless = bool(options.faults)
            self.by_name[name] = door
        self._doors = list(self.by_name.values())
        self.first = self._doors[0]
        self._chance = stream(1, "front doors")

    def submit(self, client: Client) -> None:
        """A client's request reaches one of them."""
        door = self.first if len(self._doors) == 1 else self._chance.choice(self._doors)
        door.submit(client)

    def lost(self, worker: WorkerRef, reason: str) -> None:
        """A worker's process is gone, as every door hears."""
        for door in self._doors:
            door.lost(worker, reason)

    def settle(self) -> None:
        """Count every plain token that arrived at any of them by now."""
        for door in self._doors:
            door.settle()

    @property
    def moves(self) -> dict[str, int]:
        """Attempts beyond the first, by reason."""
        return dict(sum((Counter(door.flow.moves) for door in self._doors), Counter()))

    @property
    def placements(self) -> dict[str, int]:
        """Dispatches by what was chosen."""
        return dict(sum((Counter(door.flow.placements) for door in self._doors), Counter()))
