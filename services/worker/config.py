"""Everything one worker process is started with."""

from __future__ import annotations

from pydantic import Field

from services.core.clock import NS_PER_MS
from services.core.config import ModelConfig, Strict, TestingConfig
from services.decode.config import DecodeConfig
from services.encode.config import EncodeConfig
from services.kvcache.config import CacheConfig, TransferConfig
from services.prefill.config import PrefillConfig
from services.scheduling.config import SchedulerConfig
from services.telemetry.config import TelemetryConfig

RAY_NODE = "ray-node"
"""In place of an address: the one that Ray has for the host of a process."""
IDLE_NS = 20 * NS_PER_MS
"""A worker that idles this long lends its cores; it is longer than the gap between two steps."""


class WorkerConfig(Strict):
    """How a worker behaves towards its clients, peers and controller."""

    host: str = Field(
        "127.0.0.1",
        description="Address that front doors and other workers reach this one on; `ray-node`: the address that Ray "
        "has for each worker's host, for a cluster of several hosts.",
    )
    report_every_s: float = Field(0.1, gt=0, description="Longest silence towards a front door.")
    subscription_expiry_s: float = Field(5.0, gt=0, description="A front door silent this long is gone.")
    max_unacknowledged_items: int = Field(4096, ge=16, description="Stream items kept for a front door that lags.")
    controller_silence_s: float = Field(60.0, gt=0, description="Drain and exit when no controller calls this long.")
    lend_cores: bool = Field(True, description="Let decode steps use the cores of workers that idle, on one host.")
    rank_timeout_s: float = Field(10.0, gt=0, description="A rank that is this late in a step is lost.")
    store_ports: tuple[int, int] = Field((0, 0), description="Port range of KV stores; (0, 0): any free port.")
    peer_ports: tuple[int, int] = Field((0, 0), description="Port range of front doors and peers; (0, 0): any.")


class WorkerSpec(Strict):
    """One worker, complete."""

    worker_id: str
    cluster_id: str
    pool: str
    roles: tuple[str, ...]
    threads: int = Field(1, ge=1)
    tp: int = Field(1, ge=1, description="Tensor-parallel ranks, a process each; this is the spec of all of them.")
    core_ledger: str | None = Field(None, description="File in which this host's workers lend cores; None: no lending.")
    model: ModelConfig
    model_folder: str = Field(description="Folder with config.json and safetensors, ready to load.")
    cache: CacheConfig = CacheConfig()
    transfer: TransferConfig = TransferConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    encode: EncodeConfig = EncodeConfig()
    prefill: PrefillConfig = PrefillConfig()
    decode: DecodeConfig = DecodeConfig()
    worker: WorkerConfig = WorkerConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    testing: TestingConfig = TestingConfig()
    decision_log: str | None = Field(None, description="Folder for this worker's decision log; None: off.")
