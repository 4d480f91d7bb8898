"""Whatever happens to two prefill and two decode workers: every client gets each right token once, or a clean error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.request import WorkerRef
from tests.flow_world import OUTLIVES, FlowWorld, S
from tests.world import MS

SETTLE = 20 * S
STOPPED_FOR = 4 * S

Hurt = Callable[[FlowWorld, WorkerRef], None]


def stop_for_a_while(world: FlowWorld, ref: WorkerRef) -> None:
    """SIGSTOP, and later SIGCONT, unless the controller's patience ended first."""
    world.stop(ref)
    world.later(STOPPED_FOR, lambda: world.wake(ref) if ref in world.stopped else None)


def stop_until_killed(world: FlowWorld, ref: WorkerRef) -> None:
    """SIGSTOP; the controller kills after 5 s."""
    world.stop(ref)
    world.later(5 * S, lambda: world.kill(ref) if ref in world.cores else None)


def hurt_link(do: Callable[[FlowWorld, object], None]) -> Hurt:
    """Something happens to a link that has a post under way."""

    def hurt(world: FlowWorld, ref: WorkerRef) -> None:
        for link in [link for link in world.links if ref in (link.sender, link.receiver)]:
            do(world, link)

    return hurt


def corrupt(world: FlowWorld, ref: WorkerRef) -> None:
    """The next part that arrives has a wrong checksum."""
    world.fail_next_part = "checksum"


def drop(world: FlowWorld, ref: WorkerRef) -> None:
    """The next control message between workers is lost."""
    world.drop_next_message = True


def lose_bytes(world: FlowWorld, ref: WorkerRef) -> None:
    """The next part never arrives, and its sender does not notice."""
    world.lose_next_part = True


def lose_item(world: FlowWorld, ref: WorkerRef) -> None:
    """The next item of a worker's stream is lost on the way to the front door."""
    world.lose_next_item_of = ref


HURTS: dict[str, Hurt] = {
    "kill": lambda world, ref: world.kill(ref),
    "stop": stop_for_a_while,
    "stop until killed": stop_until_killed,
    "break": hurt_link(lambda world, link: world.break_link(link)),  # type: ignore[arg-type]
    "stall": hurt_link(lambda world, link: world.stall(link)),  # type: ignore[arg-type]
    "corrupt": corrupt,
    "drop": drop,
    "lose bytes": lose_bytes,
    "lose item": lose_item,
}


def assert_clean(world: FlowWorld) -> None:
    """Nothing is held anywhere."""
    assert world.flow.next_wake() is None
    for ref, core in world.cores.items():
        load = core.load()
        assert (load.kv_blocks_used, load.leases, load.transfers, load.tasks) == (0, 0, 0, 0), (ref, load)


def assert_ends(world: FlowWorld) -> None:
    """Every client is served completely, or knows that it may try again."""
    for client in world.clients.values():
        late = client.request.deadline_unix_ms is not None and client.error == "DEADLINE"
        assert client.complete or client.cancelled or client.retryable or late, client


@given(st.data())
def test_any_mix_of_faults_leaves_right_tokens_and_nothing_behind(data: st.DataObject) -> None:
    world = FlowWorld(data.draw(st.integers(0, 2**32)))
    world.run(500 * MS)
    refs = list(world.cores)
    for number in range(data.draw(st.integers(1, 6))):
        prompt = tuple(data.draw(st.integers(0, 1)) for _ in range(data.draw(st.integers(1, 40))))
        deadline = data.draw(st.sampled_from([None, None, 100 * MS, 1 * S, 5 * S]))
        world.submit(
            f"r{number}",
            prompt,
            None if deadline is None else world.now // MS * MS + deadline,
            max_tokens=data.draw(st.integers(1, 12)),
        )
        for _ in range(data.draw(st.integers(0, 2))):
            world.run(world.now + data.draw(st.integers(0, 150)) * MS)
            what = data.draw(st.sampled_from([*HURTS, "cancel"]))
            if what == "cancel":
                world.cancel(data.draw(st.sampled_from(list(world.clients))))
                continue
            name = data.draw(st.sampled_from([ref.worker_id for ref in refs]))
            alive = [ref for ref in world.cores if ref.worker_id == name]
            if alive:
                HURTS[what](world, alive[0])
    world.run(world.now + SETTLE)
    assert_ends(world)
    assert_clean(world)


@pytest.mark.parametrize("what", HURTS)
@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_one_fault_at_every_moment_is_survived(what: str, role: str) -> None:
    moves = 0
    for moment in range(0, 400, 27):
        size = 9 if moment % 2 else 37  # a late and an early grant
        world = FlowWorld(moment, early_grant_tokens=30)
        world.run(500 * MS)
        client = world.submit("r", tuple(n % 3 for n in range(size)), max_tokens=14)
        world.run(world.now + moment * MS)
        places = world.flow.state()["running"].get("r", {}).get("workers", [])  # type: ignore[index]
        worker = next((WorkerRef(*ref) for ref in places if ref[0].startswith(role)), None)
        if worker is not None:
            HURTS[what](world, worker)
        world.run(world.now + SETTLE)
        assert client.complete, (moment, client)
        assert_clean(world)
        moves += sum(world.flow.moves.values())
    if what in ("kill", "stop", "stop until killed", "lose item"):  # the rest may end with another hand-off
        assert moves, "the fault hit something"


def test_a_deadline_holds_on_every_worker_while_its_peers_are_stuck() -> None:
    for moment in range(0, 300, 20):
        for role in ("prefill", "decode"):
            world = FlowWorld(moment, prefill=1, decode=1)
            world.run(500 * MS)
            client = world.submit("r", tuple(range(37)), world.now + 400 * MS, max_tokens=60)
            world.run(world.now + moment * MS)
            world.stop(next(ref for ref in world.cores if ref.worker_id.startswith(role)))
            world.run(world.now + 400 * MS + OUTLIVES)
            assert client.over
            assert client.complete or client.error == "DEADLINE"
            world.run(world.now + SETTLE)


def test_bytes_that_were_lost_are_missed_by_a_receiver_that_hung_when_it_wakes() -> None:
    for moment in range(40, 240, 40):
        world = FlowWorld(moment, prefill=1, decode=1)
        world.run(500 * MS)
        world.lose_next_part = True
        client = world.submit("r", tuple(range(9)), max_tokens=5)
        world.run(world.now + moment * MS)
        stop_for_a_while(world, next(ref for ref in world.cores if ref.worker_id.startswith("decode")))
        world.run(world.now + SETTLE)
        assert client.complete, (moment, client)
        assert_clean(world)
