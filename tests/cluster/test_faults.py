"""Workers, links and the controller die at chosen points; everything held elsewhere comes back and service goes on."""

from __future__ import annotations

import grpc
import pytest

from tests.cluster.harness import Cluster, collect, wait_for

pytestmark = pytest.mark.cluster

PROMPT = [11 + i % 700 for i in range(200)]
ALL_POINTS = [
    *(("prefill-0", f"{point}:kill") for point in ("offered", "granted", "committed", "released", "token=0")),
    *(("prefill-0", f"sending={group}:kill") for group in (0, 1, 2, 3)),
    *(("decode-0", f"{point}:kill") for point in ("offered", "granted", "committed", "released")),
    *(("decode-0", f"receiving={group}:kill") for group in (0, 1, 2)),
    *(("decode-0", f"token={index}:kill") for index in (1, 2, 7, 20)),
]
IN_MAKE_TEST = [ALL_POINTS[index] for index in (5, 10, 14, 18)]
CONTROLLER = "ServeReplica:control:controller"
GENEROUS_S = 90.0
"""A killed worker is another process that loads the model again: 5 s here, 20 s on a machine that is lent to many."""
CLEAN = (None, grpc.StatusCode.UNAVAILABLE)


def fresh_prompt(salt: int) -> list[int]:
    """A prompt that no earlier test left in a prefix cache."""
    return [1000 + salt, *PROMPT]


def kill_at(cluster: Cluster, worker_id: str, fault: str, salt: int) -> None:
    """Arm a kill, send a request into it, and look at everything that must come back."""
    cluster.wait_serving()
    before = cluster.workers()[worker_id]["incarnation"]
    cluster.arm(worker_id, fault)
    got = cluster.generate(fresh_prompt(salt), max_tokens=40, ignore_eos=True, timeout_s=GENEROUS_S)
    assert got.error in CLEAN, (fault, got)
    assert got.error is not None or len(got.token_ids) == 40, (fault, got)
    wait_for(
        lambda: cluster.workers().get(worker_id, {}).get("incarnation") != before,
        GENEROUS_S,
        f"{fault} killed {worker_id}",
    )
    other = "decode-0" if worker_id == "prefill-0" else "prefill-0"

    def released() -> bool:
        row = cluster.workers()[other]
        return all(int(row[name]) == 0 for name in ("kv_blocks_used", "leases", "transfers", "tasks"))

    wait_for(released, 10.0, f"{fault}: {other} released everything: {cluster.workers()[other]}")
    cluster.wait_serving()


@pytest.mark.parametrize(("worker_id", "fault"), IN_MAKE_TEST)
def test_a_killed_worker_leaves_nothing_behind(cluster: Cluster, worker_id: str, fault: str) -> None:
    kill_at(cluster, worker_id, fault, IN_MAKE_TEST.index((worker_id, fault)))


def test_a_corrupted_part_is_sent_again(cluster: Cluster) -> None:
    cluster.wait_serving()
    right = cluster.generate(fresh_prompt(50), max_tokens=6, ignore_eos=True)
    cluster.arm("prefill-0", "sending=1:corrupt")
    got = cluster.generate(fresh_prompt(51), max_tokens=6, ignore_eos=True)
    assert got.error is None
    assert len(right.token_ids) == len(got.token_ids) == 6
    cluster.wait_idle()


def test_a_killed_controller_comes_back_and_streams_go_on(cluster: Cluster) -> None:
    cluster.wait_serving()
    before = {row["id"]: row["incarnation"] for row in cluster.workers().values()}
    call = cluster.stream(fresh_prompt(60), max_tokens=200, ignore_eos=True)
    first = next(iter(call))
    assert first.WhichOneof("event") == "started"
    (controller,) = cluster.find(CONTROLLER)
    controller.kill()
    got = collect(call)
    assert got.error is None
    assert len(got.token_ids) == 200
    wait_for(lambda: cluster.find(CONTROLLER), GENEROUS_S, "Serve starts another controller")
    cluster.wait_serving()
    assert {row["id"]: row["incarnation"] for row in cluster.workers().values()} == before, "workers were adopted"
