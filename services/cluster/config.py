"""The one YAML as models: everything that `triptych up` starts is described here."""

from __future__ import annotations

from pydantic import Field, field_validator

from services.controller.config import ControllerConfig
from services.core.config import ModelConfig, Strict, TestingConfig
from services.decode.config import DecodeConfig
from services.encode.config import EncodeConfig
from services.frontdoor.config import MAX_FRONT_DOORS as MAX_FRONT_DOORS
from services.frontdoor.config import FrontDoorConfig
from services.kvcache.config import CacheConfig, TransferConfig
from services.prefill.config import PrefillConfig
from services.router.config import RouterConfig
from services.scheduling.config import SchedulerConfig
from services.semcache.config import RedisConfig, SemcacheConfig
from services.telemetry.config import TelemetryConfig
from services.worker.config import RAY_NODE, WorkerConfig

MAX_REPLICAS = 1024
"""Workers of one pool."""
MAX_RANKS = 16
"""Ranks of one worker; the model's KV heads are the tighter bound."""


class IdentityConfig(Strict):
    """Which cluster this is."""

    name: str = Field(
        "triptych", pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="Name of the cluster, for `status` and `down`."
    )


class PoolConfig(Strict):
    """The workers of one role."""

    replicas: int = Field(1, ge=1, le=MAX_REPLICAS, description="Workers.")
    tp: int = Field(1, ge=1, le=MAX_RANKS, description="Tensor-parallel ranks of one worker, a process each.")
    threads: int = Field(1, ge=1, description="CPU threads of torch in each process of a worker.")


class EncodePoolConfig(Strict):
    """Workers that encode images alone; `triptych simulate` has them, the engine that serves has no vision tower."""

    replicas: int = Field(
        0, ge=0, le=MAX_REPLICAS, description="Workers; 0: those of prompts encode, too. Simulated only."
    )
    threads: int = Field(1, ge=1, description="CPU threads of each of them.")


class PoolsConfig(Strict):
    """How many workers each role has."""

    encode: EncodePoolConfig = EncodePoolConfig()
    prefill: PoolConfig = PoolConfig()
    decode: PoolConfig = PoolConfig()


class RecordConfig(Strict):
    """Decision logs (protocol section 7)."""

    folder: str | None = Field(None, description="Folder for decision logs, one file a process; null: off.")


class ClusterConfig(Strict):
    """A whole cluster, complete."""

    cluster: IdentityConfig = IdentityConfig()
    state_folder: str = Field("~/.triptych", description="Where state files and converted models are kept.")
    model: ModelConfig = ModelConfig()
    pools: PoolsConfig = PoolsConfig()
    cache: CacheConfig = CacheConfig()
    transfer: TransferConfig = TransferConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    encode: EncodeConfig = EncodeConfig()
    prefill: PrefillConfig = PrefillConfig()
    decode: DecodeConfig = DecodeConfig()
    router: RouterConfig = RouterConfig()
    semcache: SemcacheConfig = SemcacheConfig()
    redis: RedisConfig = RedisConfig()
    controller: ControllerConfig = ControllerConfig()
    worker: WorkerConfig = WorkerConfig()
    frontdoor: FrontDoorConfig = FrontDoorConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    record: RecordConfig = RecordConfig()
    testing: TestingConfig = TestingConfig()

    @property
    def many_hosts(self) -> bool:
        """Whether workers and front doors may be on several hosts, each with its own address."""
        return self.worker.host == RAY_NODE

    @field_validator("testing")
    @classmethod
    def _hooks_are_switched_on(cls, testing: TestingConfig) -> TestingConfig:
        if not testing.enabled and testing != TestingConfig():
            raise ValueError("test hooks are refused; set testing.enabled to true or remove them")
        return testing

    @field_validator("frontdoor")
    @classmethod
    def _two_ports(cls, frontdoor: FrontDoorConfig) -> FrontDoorConfig:
        if frontdoor.grpc_port == frontdoor.http_port != 0:
            raise ValueError("grpc_port and http_port are equal; choose two ports")
        return frontdoor
