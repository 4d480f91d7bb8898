"""Reaches other workers' actors by name, and keeps their handles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from services.core.peer import PeerBody
from services.core.request import WorkerRef
from services.core.wire import NAMESPACE, actor_name, pack
from services.worker.peers import PeerGone

logger = logging.getLogger(__name__)


class ActorPeerCalls:
    """`PeerCall` of one worker process.

    Args:
        cluster_id: prefix of the workers' actor names.
    """

    def __init__(self, cluster_id: str) -> None:
        self._cluster_id = cluster_id
        self._handles: dict[str, Any] = {}

    def __call__(self, me: WorkerRef, to: WorkerRef, sequence: int, bodies: tuple[PeerBody, ...]) -> Awaitable[None]:
        """Start the call when the peer's handle is known; its answer raises PeerGone."""
        packed = pack((me, to, sequence, bodies))
        handle = self._handles.get(to.worker_id)
        return self._answer(to, packed, handle.peer.remote(packed) if handle is not None else None)

    async def _answer(self, to: WorkerRef, packed: bytes, call: Any) -> None:
        try:
            if call is None:
                name = actor_name(self._cluster_id, to.worker_id)
                self._handles[to.worker_id] = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
                call = self._handles[to.worker_id].peer.remote(packed)
            taken = await call
        except (RayActorError, ValueError) as error:
            self._handles.pop(to.worker_id, None)
            raise PeerGone(f"its process is gone ({type(error).__name__})") from error
        except RayError as error:
            logger.exception("peer %s failed on a message", to.worker_id)
            raise PeerGone(f"it failed on a message ({type(error).__name__})") from error
        if not taken:
            raise PeerGone("it was restarted")
