"""One front door replica, put together: what the composition root wraps in a Ray Serve deployment."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from pathlib import Path
from typing import Any, TextIO

from services.core.clock import NS_PER_S, WallClock
from services.core.config import ModelConfig
from services.core.decision_log import DecisionLog
from services.core.seeds import new_incarnation
from services.core.wire import WorkerInfo
from services.engine.checkpoint import model_digest, read_shape
from services.frontdoor.cluster_servicer import ClusterServicer
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.convert import Converter, ServedModel
from services.frontdoor.performer import Performer
from services.frontdoor.server import Servers
from services.frontdoor.servicer import InferenceServicer
from services.frontdoor.subscriptions import Subscriptions
from services.frontdoor.tokenizer import Tokenizer
from services.kvcache.block import root_hash
from services.router.config import RouterConfig
from services.router.flow import RequestFlow

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 0.25


class FrontDoor:
    """The gRPC and HTTP edge of a cluster, with the request flow and the subscriptions in the same process.

    Make it and call every method on one event loop. It installs no signal handler and needs Ray connected.

    Args:
        config: ports and limits.
        router: placement.
        cluster_id: of this cluster; a port held by another cluster's front door is refused.
        model: which model is served, under which name.
        model_folder: its Hugging Face-layout folder.
        controller: Ray handle of the controller, whose `list_workers` names the live workers.
        block_size: tokens in one KV block, as the workers have it.
        decision_log: folder for the request flow's decision log; None: off.

    Raises:
        ModelError: a file of the model folder is missing or not understood.
    """

    def __init__(
        self,
        config: FrontDoorConfig,
        router: RouterConfig,
        cluster_id: str,
        model: ModelConfig,
        model_folder: str,
        controller: Any,
        block_size: int,
        decision_log: str | None = None,
    ) -> None:
        clock = WallClock()
        incarnation = new_incarnation()
        version = importlib.metadata.version("triptych")
        served = load_model(model, Path(model_folder), block_size)
        self.front_door_id = f"frontdoor-{incarnation:x}"
        self._clock = clock
        self._subscriptions = Subscriptions(
            cluster_id, self.front_door_id, incarnation, ControllerHandle(controller), config.worker_lost_s, clock
        )
        built = flow_header(self.front_door_id, router, block_size)
        flow = flow_from_header(built)
        self._log_file = None if decision_log is None else open_log(Path(decision_log), self.front_door_id)
        log = None if self._log_file is None else DecisionLog(self._log_file.write, flow, "flow", built)
        self._performer = Performer(
            flow, self._subscriptions, clock, self.front_door_id, config.max_running_requests, log
        )
        converter = Converter(served, config, self.front_door_id)
        self._servers = Servers(
            config,
            InferenceServicer(self._performer, converter, served, clock, config.default_deadline_s),
            ClusterServicer(self._performer, clock, cluster_id, version, served.name),
            cluster_id,
            version,
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def grpc_port(self) -> int:
        """Bound gRPC port; 0 before `start`."""
        return self._servers.grpc_port

    @property
    def http_port(self) -> int:
        """Bound HTTP port; 0 before `start`."""
        return self._servers.http_port

    @property
    def num_running(self) -> int:
        """Requests in flight, for autoscaling."""
        return self._performer.num_running

    async def start(self) -> None:
        """Bind both ports and subscribe to workers; returns before any worker is there (see /readyz).

        Raises:
            PortBusyError: a port is held by something that is not this cluster.
        """
        await self._servers.start()
        self._tasks = [
            asyncio.create_task(self._subscriptions.run(self._performer)),
            asyncio.create_task(self._watch()),
        ]

    async def check_health(self) -> None:
        """Raise when this replica does not serve any more, so that it is replaced."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError(f"a task of the front door ended: {task.exception()}")
        await self._servers.check()

    async def stop(self, drain_s: float) -> None:
        """Refuse new requests, let streams finish for at most `drain_s`, then close everything."""
        self._performer.draining = True
        await self._servers.show_draining()
        give_up_ns = self._clock.now_ns() + int(drain_s * NS_PER_S)
        while self._performer.num_running and self._clock.now_ns() < give_up_ns:
            await asyncio.sleep(0.05)
        await self._performer.close()
        await self._servers.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._log_file is not None:
            self._log_file.close()

    async def _watch(self) -> None:
        """Keep the shown health true."""
        while not self._performer.draining:
            await self._servers.show_readiness()
            await asyncio.sleep(WATCH_EVERY_S)
        await asyncio.Event().wait()


def flow_header(front_door: str, router: RouterConfig, block_size: int) -> dict[str, Any]:
    """What a decision log needs to build the same request flow again."""
    return {"front_door": front_door, "router": router.model_dump(mode="json"), "block_size": block_size}


def flow_from_header(header: dict[str, Any]) -> RequestFlow:
    """The inverse of `flow_header`."""
    return RequestFlow(header["front_door"], RouterConfig.model_validate(header["router"]), header["block_size"])


def open_log(folder: Path, front_door: str) -> TextIO:
    """A new log file, written line by line."""
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{front_door}.jsonl").open("w", buffering=1, encoding="utf-8")


class ControllerHandle:
    """The controller as a directory of workers, through any Ray handle to it (Serve deployment or actor)."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def list_workers(self) -> list[WorkerInfo]:
        """All workers that are ready."""
        found: list[WorkerInfo] = await self._handle.list_workers.remote()
        return found


def load_model(config: ModelConfig, folder: Path, block_size: int) -> ServedModel:
    """What the front door needs of a model folder; loads no weights.

    Raises:
        ModelError: a file is missing or not understood.
    """
    shape = read_shape(folder)
    tokenizer = Tokenizer(folder)
    named = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    digest = model_digest(folder)

    def root_of(salt: bytes) -> bytes:
        rope = str(shape.rope)
        return root_hash(model_digest=digest, dtype=config.dtype, rope=rope, block_size=block_size, salt=salt)

    return ServedModel(
        name=config.served_name,
        dtype=config.dtype,
        max_len_tokens=min(shape.max_position, config.max_model_len_tokens or shape.max_position),
        vocab_size=shape.vocab,
        eos_token_ids=shape.eos_token_ids or named,
        tokenizer=tokenizer,
        root_of=root_of,
        block_size=block_size,
    )
