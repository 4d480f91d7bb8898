"""Every metric by name: what it counts, in which unit, under which labels, in which buckets, and which process has it.

Stems and buckets are vLLM's where vLLM has the same metric, so that its dashboards and scalers work after one change
of prefix. Latencies come from a request's timeline (core/timeline.py), the state of workers from their reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "triptych_"


class Kind(StrEnum):
    """How a metric moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Place(StrEnum):
    """Which processes have a metric."""

    EVERY = "every process"
    FRONT_DOOR = "front door"
    WORKER = "worker, and front door for all workers that it knows"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: whole name; counters end in `_total`, and units are the last word before that.
        unit: of the value.
        buckets: upper bounds of a histogram, without infinity.
    """

    name: str
    kind: Kind
    place: Place
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# --- buckets (vLLM, v1/metrics/buckets.py) ----------------------------------------------------------------------

TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
TOKEN_TIME_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
PHASE_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
    *(1920.0, 7680.0),
)
SHORT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Ours: for hand-offs and dispatch, which take milliseconds."""
ROUTE_BUCKETS = (0.0001, 0.00025, 0.0005, *SHORT_BUCKETS, 30.0)
"""Ours: a decision takes a fraction of a millisecond, a turn at a full cluster seconds."""
AGE_BUCKETS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 10800.0, 21600.0, 43200.0, 86400.0)
SIMILARITY_BUCKETS = (0.7, 0.75, 0.8, 0.82, 0.84, 0.86, 0.88, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 1.0)
LENGTH_BUCKETS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))


def _seconds(stem: str, text: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(
        f"{PREFIX}{stem}_seconds", Kind.HISTOGRAM, Place.FRONT_DOOR, "seconds", text, ("model_name",), buckets
    )


# --- a request, when it has ended -------------------------------------------------------------------------------

TTFT = _seconds("time_to_first_token", "From receipt of a request to its first token, queueing included.", TTFT_BUCKETS)
ITL = _seconds("inter_token_latency", "Between two tokens of one request in a row.", TOKEN_TIME_BUCKETS)
TPOT = _seconds(
    "request_time_per_output_token", "Mean time per output token of a request, after the first.", TOKEN_TIME_BUCKETS
)
E2E = _seconds("e2e_request_latency", "From receipt of a request to its end.", PHASE_BUCKETS)
DISPATCH_TIME = _seconds(
    "request_dispatch_time", "From receipt to dispatch: checks, tokenization, placement.", SHORT_BUCKETS
)
ROUTE_TIME = _seconds(
    "request_route_time",
    "From a request that was checked and looked for in the cache to its dispatch: placement and its turn.",
    ROUTE_BUCKETS,
)
CACHE_LOOKUP = _seconds(
    "cache_lookup", "What the response cache adds before placement: naming the request and looking.", ROUTE_BUCKETS
)
QUEUE_TIME = _seconds(
    "request_queue_time", "From arrival at the prefill worker to the start of prefill.", PHASE_BUCKETS
)
PREFILL_TIME = _seconds("request_prefill_time", "From the start of prefill to the first token.", PHASE_BUCKETS)
DECODE_TIME = _seconds("request_decode_time", "From the first token to the last.", PHASE_BUCKETS)
INFERENCE_TIME = _seconds("request_inference_time", "From the start of prefill to the last token.", PHASE_BUCKETS)
HANDOFF_WAIT = _seconds(
    "kv_handoff_wait", "From the offer of a prompt's KV cache to the grant of blocks.", SHORT_BUCKETS
)
HANDOFF_TIME = _seconds("kv_handoff_time", "From the offer of a prompt's KV cache to its commit.", SHORT_BUCKETS)

REQUEST_PROMPT_TOKENS = Metric(
    "triptych_request_prompt_tokens",
    Kind.HISTOGRAM,
    Place.FRONT_DOOR,
    "tokens",
    "Prompt tokens of a request.",
    ("model_name",),
    LENGTH_BUCKETS,
)
REQUEST_GENERATION_TOKENS = Metric(
    "triptych_request_generation_tokens",
    Kind.HISTOGRAM,
    Place.FRONT_DOOR,
    "tokens",
    "Output tokens of a request.",
    ("model_name",),
    LENGTH_BUCKETS,
)


def _count(stem: str, unit: str, text: str, labels: tuple[str, ...], place: Place = Place.FRONT_DOOR) -> Metric:
    return Metric(f"{PREFIX}{stem}_total", Kind.COUNTER, place, unit, text, labels)


PROMPT_TOKENS = _count("prompt_tokens", "tokens", "Prompt tokens of ended requests.", ("model_name",))
GENERATION_TOKENS = _count("generation_tokens", "tokens", "Output tokens of ended requests.", ("model_name",))
PREFIX_QUERIES = _count(
    "prefix_cache_queries", "tokens", "Prompt tokens that were looked up in the prefix cache.", ("model_name",)
)
PREFIX_HITS = _count("prefix_cache_hits", "tokens", "Prompt tokens that the prefix cache had.", ("model_name",))
SUCCESSES = _count(
    "request_success", "requests", "Requests whose output ended as it should.", ("model_name", "finished_reason")
)
FAILURES = _count(
    "request_failures", "requests", "Requests that began and failed, by reason.", ("model_name", "reason")
)
REJECTIONS = _count(
    "admission_rejections", "requests", "Requests that were refused before they began, by reason.", ("reason",)
)

STRUCTURED = _count(
    "structured_requests",
    "requests",
    "Requests whose output must be of some form, by kind of its description and outcome: accepted, or why not.",
    ("kind", "outcome"),
)
CALLS = _count(
    "calls", "calls", "Calls of either door by method (or path) and canonical status name.", ("door", "method", "code")
)

TENANT_LIMITED = _count(
    "tenant_limited", "calls", "Calls that limits of their own tenant refused, by the error's reason.", ("reason",)
)

# --- a front door's view of the cluster -------------------------------------------------------------------------

RUNNING = Metric(
    "triptych_num_requests_running", Kind.GAUGE, Place.FRONT_DOOR, "requests", "Requests in flight at this front door."
)
LOOP_LAG = Metric(
    "triptych_event_loop_lag_seconds",
    Kind.HISTOGRAM,
    Place.FRONT_DOOR,
    "seconds",
    "How much later than asked the front door's event loop wakes a task, looked at every 20 ms.",
    buckets=SHORT_BUCKETS,
)
ROUTE_DECISIONS = _count(
    "route_decisions", "requests", "Placements by path (handoff, local_prefill) and reason.", ("path", "reason")
)
PREDICTION_ERROR = Metric(
    "triptych_prediction_error_seconds",
    Kind.HISTOGRAM,
    Place.FRONT_DOOR,
    "seconds",
    "Predicted minus measured: ttft from dispatch to the first token, itl of the tokens after it.",
    ("kind",),
    (-10.0, -1.0, -0.3, -0.1, -0.03, -0.01, -0.003, 0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0),
)
PREDICTION_ERROR_RATIO = Metric(
    "triptych_prediction_error_ratio",
    Kind.HISTOGRAM,
    Place.FRONT_DOOR,
    "share of the measured time",
    "Predicted minus measured, as a share of what was measured.",
    ("kind",),
    (-0.75, -0.5, -0.35, -0.25, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0),
)
SLO_OUTCOMES = _count(
    "slo_outcomes",
    "requests",
    "Requests that named an objective, by kind (ttft, tpot) and outcome.",
    ("kind", "outcome"),
)
QUEUE_DEPTH = Metric(
    "triptych_queue_depth",
    Kind.GAUGE,
    Place.FRONT_DOOR,
    "requests",
    "Requests that wait at the front door for their turn.",
    ("priority",),
)


def _router(stem: str, unit: str, text: str) -> Metric:
    return Metric(f"{PREFIX}{stem}", Kind.GAUGE, Place.FRONT_DOOR, unit, text)


RESERVATIONS = _router("reservations", "requests", "Requests placed on workers whose reports do not count them yet.")
INDEX_BLOCKS = _router("index_blocks", "blocks", "Blocks of prefixes whose workers are known or guessed.")
INDEX_GAPS = _count("index_gaps", "gaps", "Times that a worker's news of its prefix cache were missed.", ())
INDEX_RESYNCS = _count("index_resyncs", "snapshots", "Times that a worker told its whole prefix cache again.", ())
FAIRNESS = _router("fairness_jain", "share, 0 to 1", "Jain's index of what active tenants were served.")
HANDOFF_GAIN = _router(
    "handoff_gain_seconds",
    "seconds",
    "What hand-offs are predicted to have saved, in sum, over prompts computed where they are decoded.",
)
MOVES = _count(
    "request_moves",
    "requests",
    "Requests that were dispatched again: retried before their first token, continued after it, or given up.",
    ("kind", "reason"),
)
CACHE_REQUESTS = _count(
    "cache_requests",
    "requests",
    "Lookups in the response cache: hit, miss, bypass where it was not to be looked at, error.",
    ("tier", "outcome", "category"),
)
CACHE_WRITE_SKIPPED = _count("cache_write_skipped", "answers", "Answers that were not kept, by reason.", ("reason",))
CACHE_EVICTIONS = _count("cache_evictions", "answers", "Answers that left the response cache, by reason.", ("reason",))
CACHE_GATE_REJECTS = _count(
    "cache_gate_rejects",
    "candidates",
    "Questions near enough that the lexical gate, or the judge, told apart, by rule.",
    ("rule",),
)
CACHE_MEANWHILE = _count(
    "cache_meanwhile",
    "requests",
    "Answers found by meaning after dispatch: the work was cancelled, or they came after the first token (late).",
    ("outcome",),
)
CACHE_SAVED_TOKENS = _count(
    "cache_saved_tokens", "tokens", "Tokens that answers from the cache saved to compute.", ("kind",)
)
CACHE_INVALIDATIONS = _count(
    "cache_invalidations", "calls", "Times that operators ended answers, by what they chose them by.", ("selection",)
)
CACHE_AGE = Metric(
    "triptych_cache_entry_age_seconds",
    Kind.HISTOGRAM,
    Place.FRONT_DOOR,
    "seconds",
    "Age of answers when they were given.",
    ("tier",),
    AGE_BUCKETS,
)
CACHE_SIMILARITY = Metric(
    "triptych_cache_similarity",
    Kind.HISTOGRAM,
    Place.FRONT_DOOR,
    "cosine, 0 to 1",
    "How alike the two questions of semantic hits were.",
    ("category",),
    SIMILARITY_BUCKETS,
)
CACHE_SHADOWS = _count("cache_shadow_checks", "hits", "Semantic hits that were computed too.", ("verdict", "category"))
CACHE_PRECISION = Metric(
    "triptych_cache_semantic_precision",
    Kind.GAUGE,
    Place.FRONT_DOOR,
    "1",
    "Share of checked hits right.",
    ("category",),
)
CACHE_SINGLEFLIGHT = _count("cache_singleflight", "requests", "Requests that waited for an equal one.", ("outcome",))
CACHE_SHARED = _count("cache_shared", "changes", "Changes exchanged with Redis, by what became of them.", ("event",))
CACHE_BACKEND_UP = Metric(
    "triptych_cache_backend_up", Kind.GAUGE, Place.FRONT_DOOR, "1", "Whether Redis, which shares answers, is reached."
)
CACHE_EMBEDDED = _count(
    "cache_embedded", "questions", "Questions that were embedded, and batches that this took.", ("kind",)
)
CACHE_EMBED_SECONDS = _count(
    "cache_embed_seconds", "seconds", "Time that batches of questions took to embed, beside the event loop.", ()
)
CACHE_JUDGED = _count("cache_judged", "questions", "Near questions that the judge of wordings read.", ())
CACHE_ENTRIES = Metric(
    "triptych_cache_entries", Kind.GAUGE, Place.FRONT_DOOR, "answers", "Answers in this front door's response cache."
)
CACHE_BYTES = Metric(
    "triptych_cache_bytes", Kind.GAUGE, Place.FRONT_DOOR, "bytes", "Size of this front door's response cache, roughly."
)
REPORT_AGE = Metric(
    "triptych_report_age_seconds",
    Kind.GAUGE,
    Place.FRONT_DOOR,
    "seconds",
    "Age of a worker's last report at this front door.",
    ("worker", "role"),
)

# --- one worker, by its last report -----------------------------------------------------------------------------

WORKER_LABELS = ("worker", "role")


def _state(stem: str, unit: str, text: str, labels: tuple[str, ...] = ()) -> Metric:
    return Metric(f"{PREFIX}{stem}", Kind.GAUGE, Place.WORKER, unit, text, (*WORKER_LABELS, *labels))


KV_BLOCKS = _state(
    "kv_blocks",
    "blocks",
    "KV blocks: used by a request or transfer, cached (unused, prefix findable), or free.",
    ("state",),
)
KV_USAGE = _state("kv_cache_usage_perc", "share, 0 to 1", "Share of the KV blocks that are used.")
DECODES = _state("num_decodes_running", "requests", "Requests that get one token a step.")
QUEUED_TOKENS = _state("queued_prefill_tokens", "tokens", "Prompt tokens that wait to be computed.")
CONTEXT_TOKENS = _state("context_tokens", "tokens", "Tokens whose KV the running decodes hold.")
OFFERS_WAITING = _state("num_handoffs_waiting", "hand-offs", "Hand-offs that wait for blocks here.")
HELD = _state("num_requests_held", "requests", "Requests that hold anything here.")
LEASES = _state("kv_leases", "leases", "Live leases of hand-offs.")
TRANSFERS = _state("kv_transfers", "hand-offs", "Hand-offs that are not over.")
LINKS = _state("kv_links", "links", "Open KV links.")
THREADS = _state("worker_threads", "threads", "Threads of the worker's process.")
SOCKETS = _state("worker_sockets", "sockets", "Open sockets of the worker's process.")
DRAINING = _state("worker_draining", "0 or 1", "Whether the worker takes no new request.")
PREEMPTIONS = _count(
    "num_preemptions",
    "requests",
    "Requests that lost their KV blocks to others and are computed again.",
    WORKER_LABELS,
    Place.WORKER,
)
WORKER_EVENTS = _count(
    "worker_events",
    "events",
    "What happened in a worker that nobody asked for: evictions, retries, rejections.",
    (*WORKER_LABELS, "kind", "reason"),
    Place.WORKER,
)

# --- the controller ---------------------------------------------------------------------------------------------

WORKERS = Metric(
    "triptych_workers",
    Kind.GAUGE,
    Place.CONTROLLER,
    "workers",
    "Wanted workers by launch pool and state: absent, starting, live, stopping.",
    ("pool", "state"),
)
WORKER_FAILURES = Metric(
    "triptych_worker_failures",
    Kind.GAUGE,
    Place.CONTROLLER,
    "losses",
    "Losses of a worker in a row; 0 once it is live again.",
    ("worker",),
)
REPLANS = _count("replans", "plans", "Plans made as traffic drifted, by outcome.", ("outcome",), Place.CONTROLLER)
BUILD = Metric(
    "triptych_build_info",
    Kind.GAUGE,
    Place.EVERY,
    "always 1",
    "Version of Triptych, and what the process is.",
    ("version", "process"),
)

METRICS: tuple[Metric, ...] = (
    *(TTFT, ITL, TPOT, E2E, DISPATCH_TIME, CACHE_LOOKUP, ROUTE_TIME, QUEUE_TIME, PREFILL_TIME, DECODE_TIME),
    *(INFERENCE_TIME, STRUCTURED),
    *(HANDOFF_WAIT, HANDOFF_TIME, REQUEST_PROMPT_TOKENS, REQUEST_GENERATION_TOKENS, PROMPT_TOKENS, GENERATION_TOKENS),
    *(PREFIX_QUERIES, PREFIX_HITS, SUCCESSES, FAILURES, REJECTIONS, CALLS, TENANT_LIMITED, RUNNING, LOOP_LAG),
    *(ROUTE_DECISIONS, MOVES, REPORT_AGE),
    *(PREDICTION_ERROR, PREDICTION_ERROR_RATIO, SLO_OUTCOMES, QUEUE_DEPTH, RESERVATIONS, INDEX_BLOCKS, INDEX_GAPS),
    *(INDEX_RESYNCS, FAIRNESS, HANDOFF_GAIN, CACHE_JUDGED),
    *(CACHE_EMBED_SECONDS, CACHE_SAVED_TOKENS, CACHE_AGE, CACHE_SIMILARITY, CACHE_INVALIDATIONS, CACHE_PRECISION),
    *(CACHE_REQUESTS, CACHE_WRITE_SKIPPED, CACHE_EVICTIONS, CACHE_ENTRIES, CACHE_BYTES, CACHE_SINGLEFLIGHT),
    *(CACHE_GATE_REJECTS, CACHE_MEANWHILE, CACHE_EMBEDDED, CACHE_SHARED, CACHE_BACKEND_UP, CACHE_SHADOWS),
    *(KV_BLOCKS, KV_USAGE, DECODES, QUEUED_TOKENS, CONTEXT_TOKENS, OFFERS_WAITING, HELD, LEASES, TRANSFERS, LINKS),
    *(THREADS, SOCKETS, DRAINING, PREEMPTIONS, WORKER_EVENTS, WORKERS, WORKER_FAILURES, REPLANS, BUILD),
)
"""All of them, in reading order."""
