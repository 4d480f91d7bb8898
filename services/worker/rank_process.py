"""The processes of a tensor-parallel worker: rank 0 calls the others together; they load, compute and obey."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from services.core.actions import Event
from services.core.errors import UnavailableError
from services.core.ports import LinkError, RunnerLost
from services.core.request import WorkerRef
from services.core.wire import NAMESPACE, rank_name
from services.engine.kv_link import StoreServer
from services.engine.kv_pairs import make_link
from services.engine.model_runner import ModelRunner
from services.engine.rank_group import RankGroup
from services.engine.tp_runner import follow, load_rank
from services.worker.config import WorkerSpec
from services.worker.links import Links
from services.worker.rank_links import obey

logger = logging.getLogger(__name__)

JOIN_S = 90.0
"""How long a rank waits for the others' processes to start."""


def _load(spec: WorkerSpec, rank: int, store_address: str) -> tuple[ModelRunner, RankGroup, RankGroup]:
    """Join the other ranks and load one shard: the runner, the group of its steps and the group of its links."""
    host, timeout_s = spec.worker.host, spec.worker.rank_timeout_s
    steps = RankGroup(store_address, "steps", rank, spec.tp, host, JOIN_S, timeout_s)
    links = RankGroup(store_address, "links", rank, spec.tp, host, JOIN_S, timeout_s)
    runner = load_rank(
        Path(spec.model_folder),
        spec.model.dtype,
        spec.cache.memory_bytes,
        spec.cache.block_size_tokens,
        spec.threads,
        steps,
        testing_digests=spec.testing.enabled and spec.testing.logits_digests,
    )
    for note in runner.notes:
        logger.warning("worker %s, rank %d: %s", spec.worker_id, rank, note)
    return runner, steps, links


def call_ranks(spec: WorkerSpec) -> tuple[ModelRunner, RankGroup]:
    """Rank 0: call the other ranks' actors, load together with them; blocking, seconds.

    Returns:
        The runner, and the group through which links are ordered.

    Raises:
        UnavailableError: a rank could not load; the message is its own.
    """
    store = StoreServer(spec.worker.host, spec.worker.store_ports)
    loading: list[Any] = []
    try:
        for rank in range(1, spec.tp):
            actor: Any = ray.get_actor(rank_name(spec.cluster_id, spec.worker_id, rank), NAMESPACE)
            loading.append(actor.follow.remote(store.address))
        runner, _, links = _load(spec, 0, store.address)
        ray.get(loading, timeout=JOIN_S)
    except (LinkError, RayError, ValueError) as error:
        raise UnavailableError(f"worker {spec.worker_id} has not all its ranks: {_reason(loading) or error}") from error
    finally:
        store.close()  # the ranks have met
    return runner, links


def _reason(loading: list[Any]) -> str:
    """What the first rank that failed says."""
    for answer in loading:
        try:
            ray.get(answer, timeout=1.0)
        except GetTimeoutError:
            continue
        except RayError as error:
            return str(error.cause if isinstance(error, RayTaskError) and error.cause is not None else error)
    return ""


def serve_rank(spec: WorkerSpec, rank: int, store_address: str) -> None:
    """Another rank than 0: load, then follow in threads of their own; the process ends with rank 0."""
    runner, steps, links = _load(spec, rank, store_address)

    def orders() -> None:
        answers: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        me = WorkerRef(spec.worker_id, 0)
        host = spec.worker.host
        made = Links(
            me,
            answers.put,
            lambda action: make_link(action, runner.pool, host, lambda *_: None, runner.progress, rank, spec.tp),
        )
        obey(made, answers, links)

    for name, work in (("steps", lambda: follow(runner, steps)), ("orders", orders)):
        threading.Thread(target=_until_end, args=(f"{spec.worker_id}, rank {rank}", work), name=name).start()


def _until_end(who: str, work: Callable[[], None]) -> None:
    """Run until rank 0 says that it is over, or is gone; then end the process, for a rank alone is of no use."""
    status = 1
    try:
        work()
        status = 0
    except (RunnerLost, LinkError) as error:
        logger.warning("%s ends: %s", who, error)
    except Exception:
        logger.exception("%s ends", who)
    finally:
        os._exit(status)
