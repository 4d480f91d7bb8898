"""The KV link over real gloo between two processes: bytes arrive, and every failure ends as an error, in time."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import numpy as np
import psutil
import pytest

from services.core.actions import DISCARD, LinkRole
from services.core.errors import ConfigError, PortBusyError
from services.core.peer import LinkKey
from services.core.ports import ChecksumError, LinkError
from services.engine.kv_link import GlooLink, StoreServer
from services.engine.kv_wire import RANGE_BYTES
from tests.engine.link_peer import HOST, Peer, PeerFailed, Side, key

SIZES = {
    "num_layers": 5,
    "num_blocks": 40,
    "num_kv_heads": 3,
    "block_size": 16,
    "head_dim": 64,
    "layers_per_group": 2,
}
SOON_S = 5.0  # a liveness bound with slack for a busy machine; the operations below would wait far longer
LONG_S = 60.0


@pytest.fixture(scope="module")
def _side_and_peer() -> Iterator[tuple[Side, Peer]]:
    peer = Peer(SIZES, seed=2)
    yield Side(SIZES, seed=1), peer
    peer.close()


@pytest.fixture
def ends(_side_and_peer: tuple[Side, Peer]) -> Iterator[tuple[Side, Peer]]:
    """This process and one peer, which the whole file shares; links are gone after each test."""
    side, peer = _side_and_peer
    yield side, peer
    for link in list(side.links):
        side.drop(link)
    side.stage(RANGE_BYTES)
    peer.call("stage", RANGE_BYTES)


@pytest.fixture
def victim() -> Iterator[Peer]:
    """A peer of this test alone, to be killed or stopped."""
    peer = Peer(SIZES, seed=2)
    yield peer
    peer.close()


epochs = iter(range(1, 1000))


def connect(side: Side, peer: Peer, peer_is: str, names: str = "") -> LinkKey:
    """A new link between the two; the receiver's store is used."""
    link = key(next(epochs), f"prefill{names}", f"decode{names}")
    address = peer.call("serve") if peer_is == "receiver" else side.serve()
    peer.start("open", link, peer_is, address)
    side.open(link, "sender" if peer_is == "receiver" else "receiver", address)
    peer.result()
    return link


def move(side: Side, peer: Peer, link: LinkKey, source: list[int], target: list[int], **names: object) -> None:
    """A part from the peer to this process."""
    peer.start("send", link, source, **names)
    side.receive(link, target, **names)
    peer.result()


def ends_soon(call: Callable[[], object]) -> str:
    """Expect LinkError long before the operation's own limit; its text."""
    start = time.monotonic()
    with pytest.raises(LinkError) as caught:
        call()
    assert time.monotonic() - start < SOON_S
    return str(caught.value)


# --- parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage_bytes", [RANGE_BYTES, 4 * 123_000, 1], ids=["one range", "ranges of 4", "ranges of 1"])
@pytest.mark.parametrize("count", [1, 3, 14])
def test_blocks_arrive_under_other_ids(ends: tuple[Side, Peer], count: int, stage_bytes: int) -> None:
    side, peer = ends
    side.stage(stage_bytes)
    peer.call("stage", stage_bytes)
    source, target = list(range(30, 30 - count, -1)), list(range(2, 2 + 2 * count, 2))
    others = [block for block in range(40) if block not in target]
    before = side.pages(others)
    for part, peer_is in enumerate(("sender", "receiver")):
        link = connect(side, peer, peer_is)
        if peer_is == "sender":
            move(side, peer, link, source, target, part=part)
            assert np.array_equal(side.pages(target), peer.call("pages", source))
        else:
            peer.start("receive", link, target, part=part)
            side.send(link, source, part=part)
            peer.result()
            assert np.array_equal(side.pages(source), peer.call("pages", target))
    assert np.array_equal(side.pages(others), before)


def test_parts_follow_each_other_on_one_link(ends: tuple[Side, Peer]) -> None:
    side, peer = ends
    link = connect(side, peer, "sender")
    for part, count in enumerate((5, 1, 9, 2)):
        source, target = list(range(count)), list(range(39, 39 - count, -1))
        move(side, peer, link, source, target, part=part)
        assert np.array_equal(side.pages(target), peer.call("pages", source))


def test_discarded_blocks_are_taken_off_the_link_and_dropped(ends: tuple[Side, Peer]) -> None:
    side, peer = ends
    link = connect(side, peer, "sender")
    before = side.pages(list(range(40)))
    move(side, peer, link, [1, 2, 3], [DISCARD] * 3)
    assert np.array_equal(side.pages(list(range(40))), before)
    move(side, peer, link, [1, 2, 3], [7, DISCARD, 9], part=1)
    assert np.array_equal(side.pages([7, 9]), peer.call("pages", [1, 3]))
    others = [block for block in range(40) if block not in (7, 9)]
    assert np.array_equal(side.pages(others), before[:, :, others])


@pytest.mark.parametrize("where", ["sending", "receiving"])
def test_a_changed_byte_is_found_and_the_link_goes_on(ends: tuple[Side, Peer], where: str) -> None:
    side, peer = ends
    link = connect(side, peer, "sender")
    before = side.pages([4, 5])
    if where == "sending":
        peer.call("arm", "sending=1:corrupt")
    else:
        side.arm("receiving=1:corrupt")
    peer.start("send", link, [10, 11])
    with pytest.raises(ChecksumError):
        side.receive(link, [4, 5])
    peer.result()
    first_group = side.pool.layer_group(0)
    assert np.array_equal(side.pages([4, 5])[first_group], peer.call("pages", [10, 11])[first_group])
    assert np.array_equal(side.pages([4, 5])[first_group.stop :], before[first_group.stop :])
    move(side, peer, link, [10, 11], [4, 5], part=1)
    assert np.array_equal(side.pages([4, 5]), peer.call("pages", [10, 11]))


@pytest.mark.parametrize(
    "other",
    [{"transfer": "another"}, {"attempt": 2}, {"part": 1}, {"blocks": [1, 2]}, {"blocks": [1, 2, 3, 4]}],
    ids=str,
)
def test_a_part_of_something_else_is_never_written(ends: tuple[Side, Peer], other: dict[str, object]) -> None:
    side, peer = ends
    link = connect(side, peer, "sender")
    before = side.pages(list(range(40)))
    names = dict(other)
    peer.start("send", link, names.pop("blocks", [1, 2, 3]), **names)
    ends_soon(lambda: side.receive(link, [7, 8, 9]))
    with pytest.raises(PeerFailed, match="LinkError: protocol: a header says"):
        peer.result(SOON_S)
    assert np.array_equal(side.pages(list(range(40))), before)


def test_pools_that_differ_do_not_open(ends: tuple[Side, Peer]) -> None:
    _, peer = ends
    other = Side({**SIZES, "num_kv_heads": 2}, seed=1)
    link = key(next(epochs))
    peer.start("open", link, "sender", other.serve())
    with pytest.raises(LinkError, match="num_kv_heads is 2 here and 3 at the peer"):
        other.open(link, "receiver", other.serve())
    with pytest.raises(PeerFailed, match="LinkError"):
        peer.result(SOON_S)


# --- while the step runs ---------------------------------------------------------------------------------------


def test_a_layer_group_leaves_when_its_step_has_computed_it(ends: tuple[Side, Peer]) -> None:
    side, peer = ends
    link = connect(side, peer, "receiver")
    before = peer.call("pages", [4, 5])
    side.progress.begin(7)
    peer.start("receive", link, [4, 5])
    sending = threading.Thread(target=lambda: side.send(link, [1, 2], step_id=7))
    sending.start()
    for layers in range(1, 4):
        side.pool.data[layers - 1] += 1.0  # what the step writes
        side.progress.layers_done(layers)
    time.sleep(0.2)
    assert sending.is_alive(), "the last layer groups are not computed yet"
    side.pool.data[3:] += 1.0
    side.progress.end(ok=True)
    sending.join(SOON_S)
    peer.result()
    after = peer.call("pages", [4, 5])
    assert np.array_equal(after, side.pages([1, 2])) and not np.array_equal(after, before)


def test_a_step_that_fails_ends_the_send(ends: tuple[Side, Peer]) -> None:
    side, peer = ends
    link = connect(side, peer, "receiver")
    side.progress.begin(8)
    peer.start("receive", link, [4, 5])
    timer = threading.Timer(0.2, partial(side.progress.end, ok=False))
    timer.start()
    assert ends_soon(lambda: side.send(link, [1, 2], step_id=8, timeout_s=LONG_S)) == "step 8 failed"
    with pytest.raises(PeerFailed, match="LinkError"):
        peer.result(SOON_S)


# --- death, silence, abort --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("peer_is", "point"), [("sender", "sending=1"), ("receiver", "receiving=1")])
def test_a_peer_killed_in_the_middle_is_noticed(peer_is: str, point: str) -> None:
    sizes = {**SIZES, "num_blocks": 400}  # 50 MB, more than socket buffers take
    side, peer = Side(sizes, seed=1), Peer(sizes, seed=2)
    link = connect(side, peer, peer_is)
    peer.call("arm", f"{point}:kill")
    blocks = list(range(400))
    peer.start("send" if peer_is == "sender" else "receive", link, blocks, timeout_s=LONG_S)
    operation = side.receive if peer_is == "sender" else side.send
    ended = ends_soon(lambda: operation(link, blocks, timeout_s=LONG_S))
    assert "Connection closed by peer" in ended or "Connection reset by peer" in ended  # reset: it left bytes unread
    peer.process.join(SOON_S)
    assert peer.process.exitcode == -signal.SIGKILL
    peer.close()


@pytest.mark.parametrize("peer_is", ["sender", "receiver"])
def test_a_stopped_peer_ends_at_the_deadline(victim: Peer, peer_is: str) -> None:
    side = Side(SIZES, seed=1)
    link = connect(side, victim, peer_is)
    os.kill(victim.process.pid or 0, signal.SIGSTOP)
    operation = side.receive if peer_is == "sender" else side.send
    start = time.monotonic()
    message = ends_soon(lambda: operation(link, [1, 2], timeout_s=0.5))
    assert time.monotonic() - start >= 0.5
    assert message.startswith("Timed out waiting")
    assert ends_soon(lambda: operation(link, [1, 2], timeout_s=LONG_S))  # the pair is closed for good


def test_a_message_that_is_dropped_ends_at_the_deadline(ends: tuple[Side, Peer]) -> None:
    side, peer = ends
    link = connect(side, peer, "sender")
    peer.call("arm", "sending=2:drop")
    peer.start("send", link, [1, 2])
    assert ends_soon(lambda: side.receive(link, [1, 2], timeout_s=0.5)).startswith("Timed out waiting")
    peer.result()


def test_a_store_whose_process_hangs_does_not_hold_an_open(victim: Peer) -> None:
    side = Side(SIZES, seed=1)
    address = victim.call("serve")
    os.kill(victim.process.pid or 0, signal.SIGSTOP)
    assert "no answer in time" in ends_soon(lambda: side.open(key(), "sender", address, timeout_s=0.5))
    victim.process.kill()  # ends the helper thread that waits for the store


def test_a_peer_that_does_not_come_ends_an_open_at_the_deadline(ends: tuple[Side, Peer]) -> None:
    side, _ = ends
    assert ends_soon(lambda: side.open(key(next(epochs)), "receiver", side.serve(), timeout_s=0.5))


@pytest.mark.parametrize("what", ["open", "send", "receive"])
def test_abort_from_another_thread_ends_a_blocked_call(ends: tuple[Side, Peer], what: str) -> None:
    side, peer = ends
    if what == "open":
        link = key(next(epochs))
        side.links[link] = GlooLink(
            link, LinkRole.RECEIVER, side.serve(), side.pool, HOST, side.faults.hit, side.progress
        )
        call = partial(side.links[link].open, LONG_S)
    else:
        link = connect(side, peer, "receiver" if what == "send" else "sender")
        call = partial(getattr(side, what), link, [1, 2], timeout_s=LONG_S)
    timer = threading.Timer(0.3, side.links[link].abort)
    timer.start()
    assert "aborted" in ends_soon(call)
    timer.join()
    side.links[link].abort()  # once more changes nothing


def test_nothing_is_written_after_an_abort(ends: tuple[Side, Peer]) -> None:
    """The thread that was left behind has groups to write, and must not."""
    side, peer = ends
    link = connect(side, peer, "sender")
    before = side.pages([4, 5])
    side.arm("receiving=1:stall=1.0")
    peer.start("send", link, [1, 2])
    timer = threading.Timer(0.4, side.links[link].abort)
    timer.start()
    assert ends_soon(lambda: side.receive(link, [4, 5], timeout_s=LONG_S)) == "aborted"
    with suppress(PeerFailed):
        peer.result()
    written = side.pages([4, 5])
    for thread in threading.enumerate():
        if thread.name == f"move {link.name}":
            thread.join(SOON_S)
            assert not thread.is_alive()
    rest = slice(side.pool.layer_group(1).start, None)
    assert np.array_equal(side.pages([4, 5]), written)
    assert np.array_equal(written[rest], before[rest])
    with pytest.raises(LinkError, match="aborted"):
        side.receive(link, [4, 5])


def test_the_peer_of_an_aborted_end_learns_it_at_once(ends: tuple[Side, Peer]) -> None:
    side, peer = ends
    link = connect(side, peer, "receiver")
    peer.start("receive", link, [1, 2], timeout_s=LONG_S)
    side.drop(link)
    with pytest.raises(PeerFailed, match="LinkError"):
        peer.result(SOON_S)


def test_a_new_epoch_works_after_a_loss_and_another_pair_never_noticed(ends: tuple[Side, Peer], victim: Peer) -> None:
    side, peer = ends
    unaffected = connect(side, peer, "sender", "-a")
    lost = connect(side, victim, "sender", "-b")
    victim.process.kill()
    ends_soon(lambda: side.receive(lost, [1], timeout_s=LONG_S))
    again = Peer(SIZES, seed=4)
    link = connect(side, again, "sender", "-b")
    for part in range(2):
        move(side, again, link, [3, 4], [5, 6], part=part)
        assert np.array_equal(side.pages([5, 6]), again.call("pages", [3, 4]))
        move(side, peer, unaffected, [3, 4], [5, 6], part=part)
        assert np.array_equal(side.pages([5, 6]), peer.call("pages", [3, 4]))
    again.close()


# --- the store --------------------------------------------------------------------------------------------------


def test_a_dead_store_stops_new_links_and_no_open_one(victim: Peer) -> None:
    side = Side(SIZES, seed=1)
    link = connect(side, victim, "receiver")
    address = victim.call("serve")
    victim.call("close_store")
    assert f"the store {address} is gone" in ends_soon(lambda: side.open(key(900), "sender", address, LONG_S))
    victim.start("receive", link, [8])
    side.send(link, [9])
    victim.result()
    assert np.array_equal(side.pages([9]), victim.call("pages", [8]))


def test_a_store_listens_on_its_host_and_in_its_range_only() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortBusyError, match=rf"worker.store_ports = \[{port}, {port}\]: every port is taken"):
            StoreServer(HOST, (port, port))
    store = StoreServer(HOST, (port, port))
    assert store.address == f"{HOST}:{port}"
    listening = [each.laddr.ip for each in psutil.Process().net_connections() if each.status == "LISTEN"]
    assert listening.count(HOST) == len(listening)
    store.close()
    with pytest.raises(ConfigError, match=r"worker.host = '192.0.2.1': cannot listen here"):
        StoreServer("192.0.2.1", (0, 0))


# --- leaks ------------------------------------------------------------------------------------------------------


def test_links_leave_no_thread_and_no_socket(ends: tuple[Side, Peer]) -> None:
    side, peer = ends
    process = psutil.Process()

    def used() -> tuple[int, int]:
        return process.num_threads(), process.num_fds()

    def cycle() -> None:
        for peer_is in ("sender", "receiver"):
            link = connect(side, peer, peer_is)
            side.drop(link)
            peer.call("drop", link)

    cycle()
    before = used()
    for _ in range(4):
        cycle()
    end = time.monotonic() + SOON_S
    while used() > before and time.monotonic() < end:
        time.sleep(0.02)  # the store notices a closed client a moment later
    assert used() <= before
