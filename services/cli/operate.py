"""`triptych drain` and `triptych scale`: change which workers a running cluster has, and wait until it has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.cli.client import NAME, STATE_FOLDER, ServerError, drain_worker, find_server, get_status, scale_pool
from services.cli.output import EXIT_FAILED, EXIT_OK, Output
from services.core.clock import NS_PER_S, WallClock
from services.core.errors import ConfigError
from services.pb import cluster_pb2

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Target:
    """A pool and the number of workers that it is to have."""

    pool: str
    replicas: int


def parse_target(text: str) -> Target:
    """`decode=2`.

    Raises:
        ConfigError: it is not written like that.
    """
    pool, equals, number = text.partition("=")
    if not equals or not pool or not number.isdecimal():
        raise ConfigError("ROLE=N", text, "write a pool and a number, for example decode=2")
    return Target(pool, int(number))


def drain(output: Output, server: str, worker_id: str, wait_s: float, as_json: bool) -> int:
    """Take one worker out of its pool.

    Args:
        wait_s: how long to wait until it is gone; 0: not at all.

    Raises:
        ServerError: there is no such worker, or the cluster does not answer.
    """
    replicas = drain_worker(server, worker_id).replicas
    gone = wait_until(server, wait_s, lambda status: worker_id not in {worker.id for worker in status.workers})
    if as_json:
        output.json({"worker": worker_id, "gone": gone, "pool_replicas": replicas})
    else:
        state = "is gone" if gone else "drains: it finishes what it has and takes nothing new"
        output.line(f"{worker_id} {state}; its pool has {replicas} workers now")
        if replicas == 0:
            output.note("no worker of this pool is left; `triptych scale` starts new ones")
    return EXIT_OK if gone or wait_s == 0 else EXIT_FAILED


def scale(output: Output, server: str, targets: Sequence[Target], wait_s: float, as_json: bool) -> int:
    """Set the size of one or more pools.

    Args:
        wait_s: how long to wait until exactly these workers report; 0: not at all.

    Raises:
        ServerError: a pool is not known, the host has no room, or the cluster does not answer.
    """
    wanted = {target.pool: tuple(scale_pool(server, target.pool, target.replicas).worker_ids) for target in targets}

    def reached(status: cluster_pb2.GetStatusResponse) -> bool:
        return all(
            {worker.id for worker in status.workers if worker.pool == pool} == set(worker_ids)
            for pool, worker_ids in wanted.items()
        )

    done = wait_until(server, wait_s, reached)
    if as_json:
        output.json({"pools": {pool: list(worker_ids) for pool, worker_ids in wanted.items()}, "reached": done})
    else:
        for pool, worker_ids in wanted.items():
            output.line(f"{pool}: {', '.join(worker_ids) or 'no worker'}{'' if done else ' (not all there yet)'}")
    return EXIT_OK if done or wait_s == 0 else EXIT_FAILED


def wait_until(server: str, wait_s: float, reached: Callable[[cluster_pb2.GetStatusResponse], bool]) -> bool:
    """Look at the cluster until something holds; False when it does not in time."""
    clock = WallClock()
    end_ns = clock.now_ns() + int(wait_s * NS_PER_S)
    while clock.now_ns() < end_ns:
        if reached(get_status(server)):
            return True
        threading.Event().wait(POLL_S)
    return False


def complete_worker(incomplete: str) -> list[str]:
    """Ids of the workers of the cluster that runs here, for the shell; nothing when none answers."""
    return [worker_id for worker_id in _worker_ids() if worker_id.startswith(incomplete)]


def complete_target(incomplete: str) -> list[str]:
    """`prefill=` and `decode=`, for the shell."""
    return [f"{pool}=" for pool in ("prefill", "decode") if pool.startswith(incomplete)]


def _worker_ids() -> list[str]:
    try:
        status = get_status(find_server(None, STATE_FOLDER.expanduser(), NAME), timeout_s=1.0)
    except ServerError:
        return []
    return [worker.id for worker in status.workers]
