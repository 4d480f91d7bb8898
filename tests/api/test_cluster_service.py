"""ClusterService over a real socket and a real controller: drain, scale, events."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from services.controller.app import Controller
from services.pb import cluster_pb2 as pb
from tests.api.harness import Served, serving, status_of_call

Code = grpc.StatusCode


def seen(event: pb.WatchEventsResponse) -> tuple[str, str]:
    """Kind and what it is about."""
    kind = pb.EventKind.Name(event.kind).removeprefix("EVENT_KIND_").lower()
    return kind, event.worker_id or f"{event.pool}={event.replicas}"


async def until_live(served: Served, *worker_ids: str) -> None:
    """Wait until exactly these workers are there, and live."""
    while True:
        status = await served.controller.status()
        if status.ready and sorted(each.worker_id for each in status.workers) == sorted(worker_ids):
            return
        await asyncio.sleep(0.005)


async def test_events_tell_what_operators_and_faults_do(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await until_live(served, "prefill-0", "decode-0")
        watch = served.cluster.WatchEvents(pb.WatchEventsRequest(), timeout=30)
        await watch.initial_metadata()
        scaled = await served.cluster.ScalePool(pb.ScalePoolRequest(pool="decode", replicas=3))
        assert list(scaled.worker_ids) == ["decode-0", "decode-1", "decode-2"]
        await until_live(served, "prefill-0", "decode-0", "decode-1", "decode-2")
        drained = await served.cluster.DrainWorker(pb.DrainWorkerRequest(worker_id="decode-1"))
        assert drained.replicas == 2
        await until_live(served, "prefill-0", "decode-0", "decode-2")
        served.host.processes["decode-2"].dead = True
        told = [await anext(aiter(watch)) for _ in range(11)]
        assert [event.sequence for event in told] == sorted({event.sequence for event in told})
        about = {name: [kind for kind, who in map(seen, told) if who == name] for _, name in map(seen, told)}
        assert about["decode-1"] == ["starting", "up", "draining", "down"]
        assert about["decode-2"] == ["starting", "up", "down", "starting", "up"]
        assert (about["decode=3"], about["decode=2"]) == (["scaled"], ["scaled"])
        (down,) = (event for event in told if seen(event) == ("down", "decode-2"))
        assert (down.reason, down.pool, down.incarnation) == ("the process was killed", "decode", 4)
        # A pool that grows again takes the lowest free number; one that shrinks gives up the highest.
        grown = await served.cluster.ScalePool(pb.ScalePoolRequest(pool="decode", replicas=3))
        assert list(grown.worker_ids) == ["decode-0", "decode-1", "decode-2"]
        shrunk = await served.cluster.ScalePool(pb.ScalePoolRequest(pool="decode", replicas=1))
        assert list(shrunk.worker_ids) == ["decode-0"]
        await until_live(served, "prefill-0", "decode-0")
        watch.cancel()
        again = served.cluster.WatchEvents(pb.WatchEventsRequest(after_sequence=told[4].sequence), timeout=30)
        assert await anext(aiter(again)) == told[5]
        again.cancel()
        everything = served.cluster.WatchEvents(pb.WatchEventsRequest(after_sequence=0), timeout=30)
        assert seen(await anext(aiter(everything))) == ("starting", "prefill-0")


async def test_a_busy_worker_finishes_before_it_goes(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await until_live(served, "prefill-0", "decode-0")
        process = served.host.processes["decode-0"]
        process.busy = True
        await served.cluster.DrainWorker(pb.DrainWorkerRequest(worker_id="decode-0"))
        await served.cluster.DrainWorker(pb.DrainWorkerRequest(worker_id="decode-0"))  # nothing more happens
        while not process.draining:
            await asyncio.sleep(0.005)
        assert not process.dead
        process.busy = False
        await until_live(served, "prefill-0")
        assert process.dead


async def test_wrong_names_and_numbers_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        stub = served.cluster
        code, reason, details = await status_of_call(stub.DrainWorker(pb.DrainWorkerRequest(worker_id="decode-7")))
        assert (code, reason) == (Code.NOT_FOUND, "NOT_FOUND")
        resource = details["ResourceInfo"]
        assert (resource.resource_type, resource.resource_name) == ("worker", "decode-7")
        code, _, details = await status_of_call(stub.ScalePool(pb.ScalePoolRequest(pool="encode", replicas=1)))
        assert (code, details["ResourceInfo"].resource_type) == (Code.NOT_FOUND, "pool")
        code, _, details = await status_of_call(stub.ScalePool(pb.ScalePoolRequest(pool="decode", replicas=65)))
        assert (code, details["BadRequest"].field_violations[0].field) == (Code.INVALID_ARGUMENT, "replicas")
        await served.controller.drain_all()
        code, reason, details = await status_of_call(stub.ScalePool(pb.ScalePoolRequest(pool="decode", replicas=2)))
        assert (code, reason) == (Code.FAILED_PRECONDITION, "DRAINING")
        assert "PreconditionFailure" in details


async def test_a_watch_says_what_it_missed_and_ends_when_the_door_drains(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await until_live(served, "prefill-0", "decode-0")
        watch = served.cluster.WatchEvents(pb.WatchEventsRequest(after_sequence=5), timeout=30)
        assert seen(await anext(aiter(watch)))[0] == "gap"  # numbers of a controller that is gone
        served.performer.draining = True
        code, reason, _ = await status_of_call(watch)
        assert (code, reason) == (Code.UNAVAILABLE, "DRAINING")


async def test_a_controller_that_is_gone_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:

        async def gone(self: Controller) -> None:
            raise ConnectionError("actor died")

        served.controller.status = gone.__get__(served.controller)  # type: ignore[method-assign]
        drain = served.cluster.DrainWorker(pb.DrainWorkerRequest(worker_id="decode-0"))
        code, reason, details = await status_of_call(drain)
        assert (code, reason) == (Code.UNAVAILABLE, "CONTROLLER_UNREACHABLE")
        assert "RetryInfo" in details
