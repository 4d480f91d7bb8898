"""Flows share ports at max-min fair rates; cores share their time; the queue keeps its order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sim.config import HostConfig
from services.sim.cores import Cores
from services.sim.event_queue import EventQueue
from services.sim.network import Flow, LinkClass, Network, Place, link_class, ports_between

S = 10**9


def ends(flows: list[tuple[float, tuple[str, ...], float]]) -> list[float]:
    """Seconds at which flows of (start, ports, bytes) are over; each port carries 100 bytes a second."""
    queue = EventQueue()
    network = Network(queue)
    found = [0.0] * len(flows)

    def begin(index: int) -> None:
        def done() -> None:
            found[index] = queue.now / S

        _, ports, size = flows[index]
        network.start(tuple((port,) for port in ports), 100.0, size, done)

    for index, (start_s, _, _) in enumerate(flows):
        queue.at(round(start_s * S), begin, index)
    queue.run()
    assert not network.flows
    return found


def test_a_flow_alone_has_the_whole_port_and_two_share_it() -> None:
    assert ends([(0, ("a",), 100)]) == pytest.approx([1.0])
    assert ends([(0, ("a",), 100), (0, ("a",), 100)]) == pytest.approx([2.0, 2.0])
    assert ends([(0, ("a",), 100), (0.5, ("a",), 100)]) == pytest.approx([1.5, 2.0])
    assert ends([(0, ("a",), 100), (0, ("b",), 100)]) == pytest.approx([1.0, 1.0])


def test_what_one_flow_cannot_use_is_the_others() -> None:
    # Two flows share port a at 50 each; the third shares b with one of them and gets the other 50.
    assert ends([(0, ("a",), 100), (0, ("a", "b"), 100), (0, ("b",), 100)]) == pytest.approx([2.0, 2.0, 2.0])
    # Three in port a have a third each; the one in b takes what is left of b, two thirds.
    three = [(0.0, ("a",), 100.0), (0.0, ("a",), 100.0), (0.0, ("a", "b"), 100.0)]
    assert ends([*three, (0.0, ("b",), 100.0)])[3] == pytest.approx(1.5)


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), min_size=1, max_size=8))
def test_rates_are_max_min_fair(paths: list[list[str]]) -> None:
    """Every flow has a full port on its way on which nobody is faster (Bertsekas and Gallager, 6.5.2)."""
    network = Network(EventQueue())
    flows: list[Flow] = [network.start(tuple((p,) for p in path), 100.0, 1e6, lambda: None) for path in paths]
    for flow in flows:
        bottlenecks = 0
        for port in flow.ports:
            users = [other for other in flows if port in other.ports]
            total = sum(other.rate for other in users)
            assert total <= 100.0 * (1 + 1e-6)
            bottlenecks += total >= 100.0 * (1 - 1e-6) and flow.rate >= max(o.rate for o in users) * (1 - 1e-6)
        assert bottlenecks


def test_a_slowed_port_slows_its_flows_until_it_recovers() -> None:
    queue = EventQueue()
    network, found = Network(queue), []
    network.start((("rack", "out"),), 100.0, 100, lambda: found.append(queue.now / S))
    queue.at(S // 2, lambda _: network.slow("rack", 10))
    queue.at(2 * S, lambda _: network.slow("rack", 1))
    queue.run()
    assert found == pytest.approx([0.5 + 1.5 + 0.35])


def test_what_lies_between_two_places() -> None:
    here = Place(devices=(0,))
    cases = {
        LinkClass.SAME_DEVICE: here,
        LinkClass.NVLINK: Place(devices=(1,)),
        LinkClass.RACK: Place(host=1, devices=(0,)),
        LinkClass.ZONE: Place(rack=1, devices=(0,)),
    }
    for expected, there in cases.items():
        assert link_class(here, there, nvlink=True) is expected
        assert ports_between(here, there, expected)
    assert link_class(here, Place(devices=(1,)), nvlink=False) is LinkClass.HOST
    assert link_class(Place(), Place(), nvlink=True) is LinkClass.HOST


def test_steps_share_cores_when_they_want_more_than_there_are() -> None:
    queue = EventQueue()
    cores, found = Cores(queue, HostConfig(cores=2)), {}

    def run(number: int, seconds: float, threads: int) -> None:
        cores.run(number, round(seconds * S), threads, lambda what: found.setdefault(what, queue.now / S), number)

    run(0, 1.0, 1)
    run(1, 1.0, 1)
    queue.run()
    assert found == pytest.approx({0: 1.0, 1: 1.0})
    for number in (2, 3, 4):
        run(number, 1.0, 1)
    queue.run()
    assert [found[number] - 1.0 for number in (2, 3, 4)] == pytest.approx([1.5, 1.5, 1.5])


def test_equal_times_come_in_the_order_of_their_sequence() -> None:
    queue, found = EventQueue(), []
    for name in "ab":
        queue.at(5, found.append, name)
    queue.at(5, found.append, "step 2", sequence=2)
    queue.at(5, found.append, "step 1", sequence=1)
    queue.at(4, found.append, "first")
    queue.run()
    assert found == ["first", "step 1", "step 2", "a", "b"]
