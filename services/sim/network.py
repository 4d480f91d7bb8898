"""Transfers over shared links: latency, then bytes at a max-min fair share of every port on the way.

same device   no wire: the bytes are copied inside one memory
nvlink        out of one device, into another of the same host
host          through a host's memory (PCIe, or gloo between processes)
rack          out of one host, into another of the same rack
zone          out of one rack, into another
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from services.core.clock import NS_PER_S
from services.sim.event_queue import EventQueue


class LinkClass(StrEnum):
    """What lies between two workers, nearest first."""

    SAME_DEVICE = "same_device"
    NVLINK = "nvlink"
    HOST = "host"
    RACK = "rack"
    ZONE = "zone"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker is; `devices` are its ranks' on the host, none for a CPU worker."""

    zone: int = 0
    rack: int = 0
    host: int = 0
    devices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Wire:
    """One class of link: time of a message without bytes, and bytes a second of one port."""

    latency_s: float
    bytes_per_s: float


Wires = Mapping[LinkClass, Wire]
Port = tuple[str, ...]
"""A shared capacity, by name: ("rack", "out", "0/0/3")."""


def link_class(here: Place, there: Place, nvlink: bool) -> LinkClass:
    """The nearest class of link between two places.

    Args:
        nvlink: whether devices of one host are joined by it.
    """
    if here.zone != there.zone or here.rack != there.rack:
        return LinkClass.ZONE
    if here.host != there.host:
        return LinkClass.RACK
    if here.devices and here.devices == there.devices:
        return LinkClass.SAME_DEVICE
    return LinkClass.NVLINK if nvlink and here.devices and there.devices else LinkClass.HOST


def ports_between(here: Place, there: Place, kind: LinkClass) -> tuple[Port, ...]:
    """The shared capacities that a transfer takes a part of."""
    host = f"{here.zone}/{here.rack}/{here.host}"
    if kind in (LinkClass.SAME_DEVICE, LinkClass.HOST):
        return ((kind.value, host),)
    if kind is LinkClass.NVLINK:
        return ((kind.value, "out", f"{host}/{here.devices}"), (kind.value, "in", f"{host}/{there.devices}"))
    if kind is LinkClass.RACK:
        return ((kind.value, "out", host), (kind.value, "in", f"{there.zone}/{there.rack}/{there.host}"))
    return ((kind.value, "out", f"{here.zone}/{here.rack}"), (kind.value, "in", f"{there.zone}/{there.rack}"))


@dataclass(slots=True, eq=False)
class Flow:
    """Bytes on their way.

    Attributes:
        ports: shared capacities; none for a flow that is only as fast as `limit`.
        limit: bytes a second that it cannot pass by itself.
        left: bytes, at the time of the last change of rates.
        rate: bytes a second since then.
        done: called when the last byte is there, unless it was stopped.
    """

    ports: tuple[Port, ...]
    limit: float
    left: float
    done: Callable[[], None]
    rate: float = 0.0
    running: bool = True


class Network:
    """All flows of a cluster, at max-min fair rates (progressive filling; Bertsekas and Gallager, section 6.5.2)."""

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue
        self._flows: list[Flow] = []
        self._capacity: dict[Port, float] = {}
        self._slower: dict[str, float] = {}
        self._since_ns = 0
        self._planned = 0
        self.bytes_moved = 0.0

    def start(self, ports: tuple[Port, ...], limit: float, size: float, done: Callable[[], None]) -> Flow:
        """Send `size` bytes; each port has a capacity of `limit`, the bandwidth of its class, unless it is slowed."""
        self._progress()
        for port in ports:
            self._capacity.setdefault(port, limit)
        flow = Flow(ports, limit, max(size, 1.0), done)
        self._flows.append(flow)
        self.bytes_moved += size
        self._share()
        return flow

    def stop(self, flow: Flow) -> None:
        """Its link broke: the bytes are gone."""
        if not flow.running:
            return
        self._progress()
        flow.running = False
        self._flows.remove(flow)
        self._share()

    def slow(self, name: str, factor: float) -> None:
        """Divide the bandwidth of every port whose name has the part `name` by `factor`; 1 is as built."""
        self._progress()
        self._slower[name] = factor
        if factor == 1.0:
            del self._slower[name]
        self._share()

    def capacity(self, port: Port) -> float:
        """Bytes a second of a port now."""
        return self._capacity[port] / self.slowed((port,)) if self._slower else self._capacity[port]

    def slowed(self, ports: tuple[Port, ...]) -> float:
        """How many times slower the slowest of some ports is than as built."""
        return max([factor for name, factor in self._slower.items() for port in ports if name in port], default=1.0)

    @property
    def flows(self) -> tuple[Flow, ...]:
        """What is on its way."""
        return tuple(self._flows)

    def _progress(self) -> None:
        """Bytes moved since rates changed last."""
        passed_s = (self._queue.now - self._since_ns) / NS_PER_S
        self._since_ns = self._queue.now
        if passed_s:
            for flow in self._flows:
                flow.left -= flow.rate * passed_s

    def _share(self) -> None:
        """Give every flow its fair rate and plan the next end."""
        ports = [port for flow in self._flows for port in flow.ports]
        if len(set(ports)) == len(ports):  # nobody shares anything
            capacity = self._capacity if not self._slower else {port: self.capacity(port) for port in ports}
            for flow in self._flows:
                flow.rate = min([flow.limit, *[capacity[port] for port in flow.ports]])
        else:
            self._fill()
        self._planned += 1
        if self._flows:
            first_s = min([max(flow.left, 0.0) / flow.rate for flow in self._flows])
            self._queue.at(self._queue.now + max(1, round(first_s * NS_PER_S)), self._ended, self._planned)

    def _fill(self) -> None:
        """Raise all rates together; whoever meets a full port stays there."""
        room = {port: self.capacity(port) for flow in self._flows for port in flow.ports}
        rising = list(self._flows)
        for flow in rising:
            flow.rate = 0.0
        while rising:
            users: dict[Port, int] = {}
            for flow in rising:
                for port in flow.ports:
                    users[port] = users.get(port, 0) + 1
            more = min(flow.limit - flow.rate for flow in rising)
            more = min([more, *(room[port] / count for port, count in users.items())])
            for flow in rising:
                flow.rate += more
            for port, count in users.items():
                room[port] -= more * count
            full = {port for port in users if room[port] <= 1e-9 * self.capacity(port)}
            rising = [
                flow
                for flow in rising
                if flow.rate < flow.limit * (1 - 1e-9) and not any(port in full for port in flow.ports)
            ]

    def _ended(self, planned: int) -> None:
        """Flows without bytes left are there; a plan that was changed since is nothing."""
        if planned != self._planned:
            return
        self._progress()
        # Less than the bytes of a nanosecond is what rounding left over.
        over = [flow for flow in self._flows if flow.left <= flow.rate / NS_PER_S]
        self._flows = [flow for flow in self._flows if flow not in over]
        self._share()
        for flow in over:
            flow.running = False
            flow.done()
