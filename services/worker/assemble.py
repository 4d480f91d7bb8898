"""Builds the state machine of a worker from its spec: the same call in the cluster, in replay and in the simulator."""

from __future__ import annotations

from typing import Any

from services.core.request import WorkerRef
from services.decode.stage import DecodeStage
from services.encode.stage import EncodeStage
from services.kvcache.block_manager import BlockManager
from services.kvcache.transfer import Transfers
from services.prefill.stage import PrefillStage
from services.scheduling.host import WorkerCore
from services.scheduling.mixed import MixedScheduler
from services.scheduling.stages import DECODE, ENCODE, PREFILL, Stage
from services.worker.config import WorkerSpec


def build_worker_core(
    spec: WorkerSpec, me: WorkerRef, num_blocks: int, store_address: str, unix_offset_ns: int
) -> WorkerCore:
    """Stages of the spec's roles over one pool of `num_blocks` blocks."""
    cache = spec.cache
    blocks = BlockManager(num_blocks, cache.block_size_tokens, cache.watermark, cache.prefix_caching)
    transfers = Transfers(me, blocks, spec.transfer, store_address, spec.tp)
    scheduler = MixedScheduler(spec.scheduler, blocks)
    stages: dict[str, Stage] = {}
    prefill: PrefillStage | None = None
    encoder: EncodeStage | None = None
    # Role is state: a decode worker can compute a prompt that is not worth a hand-off, and stays a decode worker.
    if PREFILL in spec.roles or (DECODE in spec.roles and spec.decode.host_prefill):
        prefill = stages[PREFILL] = PrefillStage(spec.prefill, scheduler, blocks, transfers)
    if ENCODE in spec.roles:
        embedded = None if prefill is None else prefill.embedded
        encoder = stages[ENCODE] = EncodeStage(spec.encode, blocks, transfers, me, embedded)
    if DECODE in spec.roles:
        stages[DECODE] = DecodeStage(spec.decode, scheduler, blocks, transfers, unix_offset_ns)
    return WorkerCore(stages, scheduler, blocks, transfers, unix_offset_ns, encoder)


def log_header(
    spec: WorkerSpec, me: WorkerRef, num_blocks: int, store_address: str, unix_offset_ns: int
) -> dict[str, Any]:
    """What a decision log needs to build the same core again."""
    return {
        "spec": spec.model_dump(mode="json"),
        "worker": [me.worker_id, me.incarnation],
        "num_blocks": num_blocks,
        "store_address": store_address,
        "unix_offset_ns": unix_offset_ns,
    }


def core_from_header(header: dict[str, Any]) -> WorkerCore:
    """The inverse of `log_header`, through `build_worker_core`."""
    return build_worker_core(
        WorkerSpec.model_validate(header["spec"]),
        WorkerRef(*header["worker"]),
        header["num_blocks"],
        header["store_address"],
        header["unix_offset_ns"],
    )
