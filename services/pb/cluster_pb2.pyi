from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_STARTING: _ClassVar[EventKind]
    EVENT_KIND_UP: _ClassVar[EventKind]
    EVENT_KIND_DRAINING: _ClassVar[EventKind]
    EVENT_KIND_STOPPING: _ClassVar[EventKind]
    EVENT_KIND_DOWN: _ClassVar[EventKind]
    EVENT_KIND_SCALED: _ClassVar[EventKind]
    EVENT_KIND_GAP: _ClassVar[EventKind]
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_STARTING: EventKind
EVENT_KIND_UP: EventKind
EVENT_KIND_DRAINING: EventKind
EVENT_KIND_STOPPING: EventKind
EVENT_KIND_DOWN: EventKind
EVENT_KIND_SCALED: EventKind
EVENT_KIND_GAP: EventKind

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("id", "role", "pool", "pid", "incarnation", "draining", "kv_blocks_total", "kv_blocks_used", "kv_blocks_cached", "queued_prefill_tokens", "running_decodes", "leases", "transfers", "tasks", "waiting_offers", "back_pressure", "counters", "links", "threads", "sockets", "metrics_address", "report_age_ms", "dispatches")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_USED_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_CACHED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_DECODES_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    WAITING_OFFERS_FIELD_NUMBER: _ClassVar[int]
    BACK_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    SOCKETS_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REPORT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    DISPATCHES_FIELD_NUMBER: _ClassVar[int]
    id: str
    role: str
    pool: str
    pid: int
    incarnation: int
    draining: bool
    kv_blocks_total: int
    kv_blocks_used: int
    kv_blocks_cached: int
    queued_prefill_tokens: int
    running_decodes: int
    leases: int
    transfers: int
    tasks: int
    waiting_offers: int
    back_pressure: str
    counters: _containers.ScalarMap[str, int]
    links: int
    threads: int
    sockets: int
    metrics_address: str
    report_age_ms: int
    dispatches: int
    def __init__(self, id: _Optional[str] = ..., role: _Optional[str] = ..., pool: _Optional[str] = ..., pid: _Optional[int] = ..., incarnation: _Optional[int] = ..., draining: _Optional[bool] = ..., kv_blocks_total: _Optional[int] = ..., kv_blocks_used: _Optional[int] = ..., kv_blocks_cached: _Optional[int] = ..., queued_prefill_tokens: _Optional[int] = ..., running_decodes: _Optional[int] = ..., leases: _Optional[int] = ..., transfers: _Optional[int] = ..., tasks: _Optional[int] = ..., waiting_offers: _Optional[int] = ..., back_pressure: _Optional[str] = ..., counters: _Optional[_Mapping[str, int]] = ..., links: _Optional[int] = ..., threads: _Optional[int] = ..., sockets: _Optional[int] = ..., metrics_address: _Optional[str] = ..., report_age_ms: _Optional[int] = ..., dispatches: _Optional[int] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("cluster_id", "version", "model", "front_door", "ready", "running_requests", "counters", "workers", "metrics_address", "front_doors")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FRONT_DOOR_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FRONT_DOORS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    version: str
    model: str
    front_door: str
    ready: bool
    running_requests: int
    counters: _containers.ScalarMap[str, int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    metrics_address: str
    front_doors: _containers.RepeatedCompositeFieldContainer[FrontDoorStatus]
    def __init__(self, cluster_id: _Optional[str] = ..., version: _Optional[str] = ..., model: _Optional[str] = ..., front_door: _Optional[str] = ..., ready: _Optional[bool] = ..., running_requests: _Optional[int] = ..., counters: _Optional[_Mapping[str, int]] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., metrics_address: _Optional[str] = ..., front_doors: _Optional[_Iterable[_Union[FrontDoorStatus, _Mapping]]] = ...) -> None: ...

class FrontDoorStatus(_message.Message):
    __slots__ = ("id", "metrics_address")
    ID_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    metrics_address: str
    def __init__(self, id: _Optional[str] = ..., metrics_address: _Optional[str] = ...) -> None: ...

class ProbeLinksRequest(_message.Message):
    __slots__ = ("payload_bytes",)
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    payload_bytes: int
    def __init__(self, payload_bytes: _Optional[int] = ...) -> None: ...

class ProbeLinksResponse(_message.Message):
    __slots__ = ("sender", "receiver", "error", "open_ms", "latency_us", "bytes_per_s")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    OPEN_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    sender: str
    receiver: str
    error: str
    open_ms: float
    latency_us: float
    bytes_per_s: float
    def __init__(self, sender: _Optional[str] = ..., receiver: _Optional[str] = ..., error: _Optional[str] = ..., open_ms: _Optional[float] = ..., latency_us: _Optional[float] = ..., bytes_per_s: _Optional[float] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("after_sequence",)
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    after_sequence: int
    def __init__(self, after_sequence: _Optional[int] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("sequence", "unix_ms", "kind", "pool", "worker_id", "incarnation", "reason", "replicas")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    unix_ms: int
    kind: EventKind
    pool: str
    worker_id: str
    incarnation: int
    reason: str
    replicas: int
    def __init__(self, sequence: _Optional[int] = ..., unix_ms: _Optional[int] = ..., kind: _Optional[_Union[EventKind, str]] = ..., pool: _Optional[str] = ..., worker_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., reason: _Optional[str] = ..., replicas: _Optional[int] = ...) -> None: ...

class DrainWorkerRequest(_message.Message):
    __slots__ = ("worker_id",)
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    def __init__(self, worker_id: _Optional[str] = ...) -> None: ...

class DrainWorkerResponse(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: int
    def __init__(self, replicas: _Optional[int] = ...) -> None: ...

class ScalePoolRequest(_message.Message):
    __slots__ = ("pool", "replicas")
    POOL_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    pool: str
    replicas: int
    def __init__(self, pool: _Optional[str] = ..., replicas: _Optional[int] = ...) -> None: ...

class ScalePoolResponse(_message.Message):
    __slots__ = ("worker_ids",)
    WORKER_IDS_FIELD_NUMBER: _ClassVar[int]
    worker_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, worker_ids: _Optional[_Iterable[str]] = ...) -> None: ...
