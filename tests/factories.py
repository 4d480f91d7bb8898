"""Small makers of requests, specs and cores for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

from services.core.config import ModelConfig
from services.core.request import Request, SamplingParams, WorkerRef
from services.kvcache.block import prompt_block_hashes
from services.scheduling.host import WorkerCore
from services.worker.assemble import build_worker_core
from services.worker.config import WorkerSpec

ROOT = b"\0" * 16
BLOCK_SIZE = 4


def make_request(request_id: str = "r1", prompt: tuple[int, ...] = (1, 2, 3, 4, 5), **fields: Any) -> Request:
    """A request with hashes of its prompt; `max_tokens` and other sampling fields go through `fields`."""
    own = {field.name for field in dataclasses.fields(SamplingParams)} & fields.keys()
    sampling = SamplingParams(**{"max_tokens": 4, **{name: fields.pop(name) for name in own}})
    hashes = prompt_block_hashes(ROOT, prompt, fields.pop("block_size", BLOCK_SIZE))
    fields = {"attempt": 1, "front_door": "door", **fields}
    return Request(request_id=request_id, prompt=prompt, block_hashes=hashes, sampling=sampling, **fields)


def make_spec(worker_id: str, roles: tuple[str, ...], **fields: Any) -> WorkerSpec:
    """A worker spec with blocks of four tokens."""
    data: dict[str, Any] = {
        "worker_id": worker_id,
        "cluster_id": "test",
        "pool": roles[0],
        "roles": roles,
        "model": ModelConfig(),
        "model_folder": "/nowhere",
        "cache": {"block_size_tokens": BLOCK_SIZE, "watermark": 0.0},
    }
    return WorkerSpec.model_validate({**data, **fields})


def make_core(ref: WorkerRef, roles: tuple[str, ...], num_blocks: int = 32, **fields: Any) -> WorkerCore:
    """A worker core with a small pool."""
    return build_worker_core(make_spec(ref.worker_id, roles, **fields), ref, num_blocks, "127.0.0.1:1", 0)
