"""Cores that workers, front door and clients share."""

from services.core.actions import RequestOutput
from services.core.clock import NS_PER_MS
from services.sim.config import HostConfig
from services.sim.cores import EDGE, PAUSE_NS, Cores, Edge
from services.sim.event_queue import EventQueue
from services.worker.config import IDLE_NS

MS = NS_PER_MS


class Host:
    """Two workers of one core each on two cores; notes when what ended."""

    def __init__(self, **host: float) -> None:
        self.queue = EventQueue()
        self.cores = Cores(self.queue, HostConfig.model_validate({"cores": 2, **host}))
        self.ends: dict[int, float] = {}
        self.times: list[float] = []
        for number in (0, 1):
            self.cores.join(number, 1)

    def step(self, number: int, alone_ms: float, may_borrow: bool = False) -> None:
        self.cores.step(number, round(alone_ms * MS), may_borrow, self._over, number)

    def _over(self, number: int) -> None:
        self.ends[number] = self.queue.now / MS
        self.times.append(self.ends[number])

    def at(self, ms: float, what: object) -> None:
        self.queue.at(round(ms * MS), lambda _: what(), None)  # type: ignore[operator]


def test_steps_on_their_own_cores_do_not_wait_for_each_other() -> None:
    host = Host(step_ms=1.0)
    host.step(0, 10)
    host.step(1, 20)
    host.queue.run()
    assert host.ends == {0: 11.0, 1: 21.0}


def test_steps_beside_each_other_are_slower_and_alone_as_fast_as_ever() -> None:
    host = Host(prefill_slowdown=1.5)
    host.step(0, 10)
    host.step(1, 20)
    host.queue.run()
    assert host.ends == {0: 15.0, 1: 25.0}


def test_a_decode_beside_a_prompt_has_a_slowdown_of_its_own() -> None:
    host = Host(prefill_slowdown=1.25, decode_slowdown=2.0)
    host.step(0, 10, may_borrow=True)
    host.step(1, 20)
    host.queue.run()
    assert host.ends == {0: 20.0, 1: 24.0}  # after 20 ms it has done 16, and does the rest alone


def test_what_comes_first_after_a_pause_is_slower_until_the_core_is_awake() -> None:
    host = Host(wake_slowdown=1.5, wake_ms=20.0)
    later = PAUSE_NS / MS
    host.at(later, lambda: host.step(0, 12))  # 18 ms
    host.at(later + 19, lambda: host.step(0, 18))  # 8 ms of it still slow: 22 ms
    host.at(later + 42, lambda: host.step(0, 10))
    host.queue.run()
    assert host.times == [later + 18, later + 41, later + 52]


def test_an_idle_worker_lends_and_gets_its_core_back_at_the_end_of_the_step() -> None:
    host = Host(lent_speedup=2.0)
    later = IDLE_NS / MS
    host.at(later, lambda: host.step(0, 10, may_borrow=True))
    host.at(later + 1, lambda: host.step(1, 10))
    host.queue.run()
    assert host.ends == {0: later + 5, 1: later + 15}


def test_who_was_busy_a_moment_ago_does_not_lend() -> None:
    host = Host(lent_speedup=2.0)
    host.step(1, 10)
    host.at(12, lambda: host.step(0, 10, may_borrow=True))
    host.queue.run()
    assert host.ends == {0: 22.0, 1: 10.0}


def test_the_front_door_serves_one_after_the_other_and_takes_its_share() -> None:
    host = Host(request_cpu_ms=2.0)
    edge = Edge(host.cores, HostConfig(cores=2, request_cpu_ms=2.0))
    read: list[tuple[str, float]] = []
    host.step(0, 10)
    host.step(1, 10)
    for what in ("a", "b"):
        edge.request(lambda each: read.append((str(each), host.queue.now / MS)), what)
    host.queue.run()
    assert [what for what, _ in read] == ["a", "b"]
    assert read[0][1] == 3.0  # three want two cores
    assert read[1][1] == 6.0
    assert host.ends == {0: 12.0, 1: 12.0}


def test_a_worker_that_ended_leaves_its_cores_to_those_that_wait() -> None:
    host = Host(lent_speedup=2.0)
    later = IDLE_NS / MS
    host.at(later, lambda: host.step(0, 1000, may_borrow=True))
    host.at(later + 1, lambda: host.step(1, 10))
    host.at(later + 2, lambda: host.cores.leave(0))
    host.queue.run()
    assert host.ends == {1: later + 12}


def test_threads_of_one_step_wait_for_the_one_whose_core_has_more_to_do() -> None:
    host = Host()
    later = IDLE_NS / MS
    host.at(later, lambda: host.step(0, 10, may_borrow=True))  # on both cores
    host.at(later, lambda: host.cores.run(EDGE, 4 * MS, 1, lambda _: host._over(EDGE), 0))
    host.queue.run()
    assert host.ends == {EDGE: later + 6, 0: later + 13}  # 3 threads: 2/3 for the one, 1/2 for the pair


def test_what_a_step_brings_costs_front_door_and_client_for_itself_and_each_token() -> None:
    host = Host()
    edge = Edge(host.cores, HostConfig(item_cpu_ms=2.0, token_cpu_ms=0.5))
    told = (RequestOutput("a", 1, 0, (1, 2)), RequestOutput("b", 1, 0, (1,)))
    edge.outputs(told, lambda _: host._over(7), None)
    host.queue.run()
    edge.outputs((), lambda _: host._over(8), None)
    assert host.ends == {7: 3.5, 8: 3.5}
