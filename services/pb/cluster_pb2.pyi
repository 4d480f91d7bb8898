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
    EVENT_KIND_PLANNED: _ClassVar[EventKind]
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_STARTING: EventKind
EVENT_KIND_UP: EventKind
EVENT_KIND_DRAINING: EventKind
EVENT_KIND_STOPPING: EventKind
EVENT_KIND_DOWN: EventKind
EVENT_KIND_SCALED: EventKind
EVENT_KIND_GAP: EventKind
EVENT_KIND_PLANNED: EventKind

class GetStatusRequest(_message.Message):
    __slots__ = ("ttft_slo_ms", "itl_slo_ms")
    TTFT_SLO_MS_FIELD_NUMBER: _ClassVar[int]
    ITL_SLO_MS_FIELD_NUMBER: _ClassVar[int]
    ttft_slo_ms: float
    itl_slo_ms: float
    def __init__(self, ttft_slo_ms: _Optional[float] = ..., itl_slo_ms: _Optional[float] = ...) -> None: ...

class LatencySpread(_message.Message):
    __slots__ = ("p50_ms", "p90_ms", "p99_ms", "kept", "bound_ms")
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P90_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    BOUND_MS_FIELD_NUMBER: _ClassVar[int]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    kept: float
    bound_ms: float
    def __init__(self, p50_ms: _Optional[float] = ..., p90_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., kept: _Optional[float] = ..., bound_ms: _Optional[float] = ...) -> None: ...

class LastMinute(_message.Message):
    __slots__ = ("requests", "failed", "prompt_tokens", "cached_tokens", "output_tokens", "ttft", "itl")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TTFT_FIELD_NUMBER: _ClassVar[int]
    ITL_FIELD_NUMBER: _ClassVar[int]
    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft: LatencySpread
    itl: LatencySpread
    def __init__(self, requests: _Optional[int] = ..., failed: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., ttft: _Optional[_Union[LatencySpread, _Mapping]] = ..., itl: _Optional[_Union[LatencySpread, _Mapping]] = ...) -> None: ...

class ResponseCacheStatus(_message.Message):
    __slots__ = ("enabled", "lookups", "hits", "entries")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    lookups: int
    hits: int
    entries: int
    def __init__(self, enabled: _Optional[bool] = ..., lookups: _Optional[int] = ..., hits: _Optional[int] = ..., entries: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("cluster_id", "version", "model", "front_door", "ready", "running_requests", "counters", "workers", "metrics_address", "front_doors", "proposal", "last_minute", "response_cache")
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
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    LAST_MINUTE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_CACHE_FIELD_NUMBER: _ClassVar[int]
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
    proposal: str
    last_minute: LastMinute
    response_cache: ResponseCacheStatus
    def __init__(self, cluster_id: _Optional[str] = ..., version: _Optional[str] = ..., model: _Optional[str] = ..., front_door: _Optional[str] = ..., ready: _Optional[bool] = ..., running_requests: _Optional[int] = ..., counters: _Optional[_Mapping[str, int]] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., metrics_address: _Optional[str] = ..., front_doors: _Optional[_Iterable[_Union[FrontDoorStatus, _Mapping]]] = ..., proposal: _Optional[str] = ..., last_minute: _Optional[_Union[LastMinute, _Mapping]] = ..., response_cache: _Optional[_Union[ResponseCacheStatus, _Mapping]] = ...) -> None: ...

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

class DumpViewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerKnowledge(_message.Message):
    __slots__ = ("id", "incarnation", "pool", "roles", "draining", "report_age_ms", "queued_prefill_tokens", "running_decodes", "context_tokens", "kv_blocks_used", "kv_blocks_total", "reserved_prompts", "reserved_prompt_tokens", "reserved_decodes", "turn")
    ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    REPORT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_DECODES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_USED_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RESERVED_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_DECODES_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    id: str
    incarnation: int
    pool: str
    roles: _containers.RepeatedScalarFieldContainer[str]
    draining: bool
    report_age_ms: float
    queued_prefill_tokens: int
    running_decodes: int
    context_tokens: int
    kv_blocks_used: int
    kv_blocks_total: int
    reserved_prompts: int
    reserved_prompt_tokens: int
    reserved_decodes: int
    turn: float
    def __init__(self, id: _Optional[str] = ..., incarnation: _Optional[int] = ..., pool: _Optional[str] = ..., roles: _Optional[_Iterable[str]] = ..., draining: _Optional[bool] = ..., report_age_ms: _Optional[float] = ..., queued_prefill_tokens: _Optional[int] = ..., running_decodes: _Optional[int] = ..., context_tokens: _Optional[int] = ..., kv_blocks_used: _Optional[int] = ..., kv_blocks_total: _Optional[int] = ..., reserved_prompts: _Optional[int] = ..., reserved_prompt_tokens: _Optional[int] = ..., reserved_decodes: _Optional[int] = ..., turn: _Optional[float] = ...) -> None: ...

class PoolEstimate(_message.Message):
    __slots__ = ("pool", "prefill_step_ms", "prefill_token_ms", "prefill_pair_ms", "decode_step_ms", "decode_row_ms", "decode_context_ms", "overhead_ms", "prefill_observations", "decode_observations")
    POOL_FIELD_NUMBER: _ClassVar[int]
    PREFILL_STEP_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_PAIR_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_STEP_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_ROW_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_CONTEXT_MS_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    DECODE_OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    pool: str
    prefill_step_ms: float
    prefill_token_ms: float
    prefill_pair_ms: float
    decode_step_ms: float
    decode_row_ms: float
    decode_context_ms: float
    overhead_ms: float
    prefill_observations: int
    decode_observations: int
    def __init__(self, pool: _Optional[str] = ..., prefill_step_ms: _Optional[float] = ..., prefill_token_ms: _Optional[float] = ..., prefill_pair_ms: _Optional[float] = ..., decode_step_ms: _Optional[float] = ..., decode_row_ms: _Optional[float] = ..., decode_context_ms: _Optional[float] = ..., overhead_ms: _Optional[float] = ..., prefill_observations: _Optional[int] = ..., decode_observations: _Optional[int] = ...) -> None: ...

class TransferEstimate(_message.Message):
    __slots__ = ("same_host", "fixed_ms", "token_ms", "observations")
    SAME_HOST_FIELD_NUMBER: _ClassVar[int]
    FIXED_MS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    same_host: bool
    fixed_ms: float
    token_ms: float
    observations: int
    def __init__(self, same_host: _Optional[bool] = ..., fixed_ms: _Optional[float] = ..., token_ms: _Optional[float] = ..., observations: _Optional[int] = ...) -> None: ...

class LengthEstimate(_message.Message):
    __slots__ = ("tenant", "category", "p50_tokens", "p90_tokens", "observations")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    P50_TOKENS_FIELD_NUMBER: _ClassVar[int]
    P90_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    category: str
    p50_tokens: int
    p90_tokens: int
    observations: int
    def __init__(self, tenant: _Optional[str] = ..., category: _Optional[str] = ..., p50_tokens: _Optional[int] = ..., p90_tokens: _Optional[int] = ..., observations: _Optional[int] = ...) -> None: ...

class DumpViewResponse(_message.Message):
    __slots__ = ("front_door", "front_doors", "workers", "pools", "transfers", "lengths", "queue", "refused", "figures")
    class QueueEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    FRONT_DOOR_FIELD_NUMBER: _ClassVar[int]
    FRONT_DOORS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    front_door: str
    front_doors: _containers.RepeatedScalarFieldContainer[str]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerKnowledge]
    pools: _containers.RepeatedCompositeFieldContainer[PoolEstimate]
    transfers: _containers.RepeatedCompositeFieldContainer[TransferEstimate]
    lengths: _containers.RepeatedCompositeFieldContainer[LengthEstimate]
    queue: _containers.ScalarMap[str, int]
    refused: _containers.ScalarMap[str, int]
    figures: _containers.ScalarMap[str, float]
    def __init__(self, front_door: _Optional[str] = ..., front_doors: _Optional[_Iterable[str]] = ..., workers: _Optional[_Iterable[_Union[WorkerKnowledge, _Mapping]]] = ..., pools: _Optional[_Iterable[_Union[PoolEstimate, _Mapping]]] = ..., transfers: _Optional[_Iterable[_Union[TransferEstimate, _Mapping]]] = ..., lengths: _Optional[_Iterable[_Union[LengthEstimate, _Mapping]]] = ..., queue: _Optional[_Mapping[str, int]] = ..., refused: _Optional[_Mapping[str, int]] = ..., figures: _Optional[_Mapping[str, float]] = ...) -> None: ...

class PromptTurn(_message.Message):
    __slots__ = ("role", "text")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    role: str
    text: str
    def __init__(self, role: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ExplainPlacementRequest(_message.Message):
    __slots__ = ("messages", "prompt", "prompt_tokens", "max_tokens", "ttft_slo_ms", "tpot_slo_ms", "priority", "category", "tenant", "limit")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TTFT_SLO_MS_FIELD_NUMBER: _ClassVar[int]
    TPOT_SLO_MS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[PromptTurn]
    prompt: str
    prompt_tokens: int
    max_tokens: int
    ttft_slo_ms: int
    tpot_slo_ms: int
    priority: int
    category: str
    tenant: str
    limit: int
    def __init__(self, messages: _Optional[_Iterable[_Union[PromptTurn, _Mapping]]] = ..., prompt: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., ttft_slo_ms: _Optional[int] = ..., tpot_slo_ms: _Optional[int] = ..., priority: _Optional[int] = ..., category: _Optional[str] = ..., tenant: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class PlacementCandidate(_message.Message):
    __slots__ = ("worker", "stage", "chosen", "excluded_by", "path", "cost_ms", "ttft_ms", "wait_ms", "prefill_ms", "transfer_ms", "slot_ms", "itl_ms", "hit_tokens", "feasible")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_BY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    COST_MS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_MS_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_MS_FIELD_NUMBER: _ClassVar[int]
    SLOT_MS_FIELD_NUMBER: _ClassVar[int]
    ITL_MS_FIELD_NUMBER: _ClassVar[int]
    HIT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FEASIBLE_FIELD_NUMBER: _ClassVar[int]
    worker: str
    stage: str
    chosen: bool
    excluded_by: str
    path: str
    cost_ms: float
    ttft_ms: float
    wait_ms: float
    prefill_ms: float
    transfer_ms: float
    slot_ms: float
    itl_ms: float
    hit_tokens: int
    feasible: bool
    def __init__(self, worker: _Optional[str] = ..., stage: _Optional[str] = ..., chosen: _Optional[bool] = ..., excluded_by: _Optional[str] = ..., path: _Optional[str] = ..., cost_ms: _Optional[float] = ..., ttft_ms: _Optional[float] = ..., wait_ms: _Optional[float] = ..., prefill_ms: _Optional[float] = ..., transfer_ms: _Optional[float] = ..., slot_ms: _Optional[float] = ..., itl_ms: _Optional[float] = ..., hit_tokens: _Optional[int] = ..., feasible: _Optional[bool] = ...) -> None: ...

class ExplainPlacementResponse(_message.Message):
    __slots__ = ("front_door", "prompt_tokens", "expected_tokens", "candidates", "decision", "admission", "reason", "message", "retry_after_ms", "waits_ms")
    FRONT_DOOR_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    WAITS_MS_FIELD_NUMBER: _ClassVar[int]
    front_door: str
    prompt_tokens: int
    expected_tokens: int
    candidates: _containers.RepeatedCompositeFieldContainer[PlacementCandidate]
    decision: str
    admission: str
    reason: str
    message: str
    retry_after_ms: int
    waits_ms: float
    def __init__(self, front_door: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., expected_tokens: _Optional[int] = ..., candidates: _Optional[_Iterable[_Union[PlacementCandidate, _Mapping]]] = ..., decision: _Optional[str] = ..., admission: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., waits_ms: _Optional[float] = ...) -> None: ...

class GetCacheStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CacheCount(_message.Message):
    __slots__ = ("tier", "outcome", "reason", "category", "count")
    TIER_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    tier: str
    outcome: str
    reason: str
    category: str
    count: int
    def __init__(self, tier: _Optional[str] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ..., category: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class CacheCategory(_message.Message):
    __slots__ = ("name", "entries", "exact", "semantic", "min_similarity", "ttl_s", "quota_share", "max_temperature", "scope")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    SEMANTIC_FIELD_NUMBER: _ClassVar[int]
    MIN_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    QUOTA_SHARE_FIELD_NUMBER: _ClassVar[int]
    MAX_TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    entries: int
    exact: bool
    semantic: bool
    min_similarity: float
    ttl_s: float
    quota_share: float
    max_temperature: float
    scope: str
    def __init__(self, name: _Optional[str] = ..., entries: _Optional[int] = ..., exact: _Optional[bool] = ..., semantic: _Optional[bool] = ..., min_similarity: _Optional[float] = ..., ttl_s: _Optional[float] = ..., quota_share: _Optional[float] = ..., max_temperature: _Optional[float] = ..., scope: _Optional[str] = ...) -> None: ...

class GetCacheStatsResponse(_message.Message):
    __slots__ = ("front_door", "front_doors", "enabled", "shared", "shared_up", "entries", "size_bytes", "load", "categories", "counts")
    FRONT_DOOR_FIELD_NUMBER: _ClassVar[int]
    FRONT_DOORS_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    SHARED_UP_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    front_door: str
    front_doors: _containers.RepeatedScalarFieldContainer[str]
    enabled: bool
    shared: bool
    shared_up: bool
    entries: int
    size_bytes: int
    load: float
    categories: _containers.RepeatedCompositeFieldContainer[CacheCategory]
    counts: _containers.RepeatedCompositeFieldContainer[CacheCount]
    def __init__(self, front_door: _Optional[str] = ..., front_doors: _Optional[_Iterable[str]] = ..., enabled: _Optional[bool] = ..., shared: _Optional[bool] = ..., shared_up: _Optional[bool] = ..., entries: _Optional[int] = ..., size_bytes: _Optional[int] = ..., load: _Optional[float] = ..., categories: _Optional[_Iterable[_Union[CacheCategory, _Mapping]]] = ..., counts: _Optional[_Iterable[_Union[CacheCount, _Mapping]]] = ...) -> None: ...

class ExplainCacheRequest(_message.Message):
    __slots__ = ("messages", "prompt", "max_tokens", "temperature", "category", "cache_control", "tenant", "key_id", "limit")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    CACHE_CONTROL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[PromptTurn]
    prompt: str
    max_tokens: int
    temperature: float
    category: str
    cache_control: str
    tenant: str
    key_id: str
    limit: int
    def __init__(self, messages: _Optional[_Iterable[_Union[PromptTurn, _Mapping]]] = ..., prompt: _Optional[str] = ..., max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., category: _Optional[str] = ..., cache_control: _Optional[str] = ..., tenant: _Optional[str] = ..., key_id: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class CacheCandidate(_message.Message):
    __slots__ = ("entry_id", "exact_key", "tier", "similarity", "category", "age_s", "expires_in_s", "hits", "refused_by")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    EXACT_KEY_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_S_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BY_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    exact_key: str
    tier: str
    similarity: float
    category: str
    age_s: float
    expires_in_s: float
    hits: int
    refused_by: str
    def __init__(self, entry_id: _Optional[str] = ..., exact_key: _Optional[str] = ..., tier: _Optional[str] = ..., similarity: _Optional[float] = ..., category: _Optional[str] = ..., age_s: _Optional[float] = ..., expires_in_s: _Optional[float] = ..., hits: _Optional[int] = ..., refused_by: _Optional[str] = ...) -> None: ...

class ExplainCacheResponse(_message.Message):
    __slots__ = ("front_door", "exact_key", "partition", "scope", "question", "turns", "fields", "categories", "category_source", "policy", "read_refused", "semantic_refused", "outcome", "candidates")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FRONT_DOOR_FIELD_NUMBER: _ClassVar[int]
    EXACT_KEY_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    READ_REFUSED_FIELD_NUMBER: _ClassVar[int]
    SEMANTIC_REFUSED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    front_door: str
    exact_key: str
    partition: str
    scope: str
    question: bool
    turns: int
    fields: _containers.ScalarMap[str, str]
    categories: _containers.RepeatedScalarFieldContainer[str]
    category_source: str
    policy: CacheCategory
    read_refused: str
    semantic_refused: str
    outcome: str
    candidates: _containers.RepeatedCompositeFieldContainer[CacheCandidate]
    def __init__(self, front_door: _Optional[str] = ..., exact_key: _Optional[str] = ..., partition: _Optional[str] = ..., scope: _Optional[str] = ..., question: _Optional[bool] = ..., turns: _Optional[int] = ..., fields: _Optional[_Mapping[str, str]] = ..., categories: _Optional[_Iterable[str]] = ..., category_source: _Optional[str] = ..., policy: _Optional[_Union[CacheCategory, _Mapping]] = ..., read_refused: _Optional[str] = ..., semantic_refused: _Optional[str] = ..., outcome: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[CacheCandidate, _Mapping]]] = ...) -> None: ...

class InvalidateCacheRequest(_message.Message):
    __slots__ = ("everything", "tenant", "shared_by_all", "category", "model", "exact_key", "dry_run")
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SHARED_BY_ALL_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EXACT_KEY_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    everything: bool
    tenant: str
    shared_by_all: bool
    category: str
    model: str
    exact_key: str
    dry_run: bool
    def __init__(self, everything: _Optional[bool] = ..., tenant: _Optional[str] = ..., shared_by_all: _Optional[bool] = ..., category: _Optional[str] = ..., model: _Optional[str] = ..., exact_key: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class InvalidateCacheResponse(_message.Message):
    __slots__ = ("front_door", "front_doors", "entries", "shared", "dry_run")
    FRONT_DOOR_FIELD_NUMBER: _ClassVar[int]
    FRONT_DOORS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    front_door: str
    front_doors: _containers.RepeatedScalarFieldContainer[str]
    entries: int
    shared: bool
    dry_run: bool
    def __init__(self, front_door: _Optional[str] = ..., front_doors: _Optional[_Iterable[str]] = ..., entries: _Optional[int] = ..., shared: _Optional[bool] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class DeleteCacheEntryRequest(_message.Message):
    __slots__ = ("exact_key", "wrong")
    EXACT_KEY_FIELD_NUMBER: _ClassVar[int]
    WRONG_FIELD_NUMBER: _ClassVar[int]
    exact_key: str
    wrong: bool
    def __init__(self, exact_key: _Optional[str] = ..., wrong: _Optional[bool] = ...) -> None: ...

class DeleteCacheEntryResponse(_message.Message):
    __slots__ = ("front_door", "found", "shared", "front_doors")
    FRONT_DOOR_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    FRONT_DOORS_FIELD_NUMBER: _ClassVar[int]
    front_door: str
    found: bool
    shared: bool
    front_doors: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, front_door: _Optional[str] = ..., found: _Optional[bool] = ..., shared: _Optional[bool] = ..., front_doors: _Optional[_Iterable[str]] = ...) -> None: ...
