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
PREFIX_HITS = _count(
    "prefix_cache_hits", "tokens", "Prompt tokens that were found in the prefix cache.", ("model_name",)
)
SUCCESSES = _count(
    "request_success", "requests", "Requests whose output ended as it should.", ("model_name", "finished_reason")
)
FAILURES = _count(
    "request_failures", "requests", "Requests that began and failed, by the error's reason.", ("model_name", "reason")
)
REJECTIONS = _count(
    "admission_rejections", "requests", "Requests that were refused before they began, by reason.", ("reason",)
)

CALLS = _count(
    "calls", "calls", "Calls of either door by method (or path) and canonical status name.", ("door", "method", "code")
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
BUILD = Metric(
    "triptych_build_info",
    Kind.GAUGE,
    Place.EVERY,
    "always 1",
    "Version of Triptych, and what the process is.",
    ("version", "process"),
)

METRICS: tuple[Metric, ...] = (
    *(TTFT, ITL, TPOT, E2E, DISPATCH_TIME, QUEUE_TIME, PREFILL_TIME, DECODE_TIME, INFERENCE_TIME),
    *(HANDOFF_WAIT, HANDOFF_TIME, REQUEST_PROMPT_TOKENS, REQUEST_GENERATION_TOKENS, PROMPT_TOKENS, GENERATION_TOKENS),
    *(PREFIX_QUERIES, PREFIX_HITS, SUCCESSES, FAILURES, REJECTIONS, CALLS, RUNNING, LOOP_LAG),
    *(ROUTE_DECISIONS, MOVES, REPORT_AGE),
    *(CACHE_REQUESTS, CACHE_WRITE_SKIPPED, CACHE_EVICTIONS, CACHE_ENTRIES, CACHE_BYTES),
    *(KV_BLOCKS, KV_USAGE, DECODES, QUEUED_TOKENS, CONTEXT_TOKENS, OFFERS_WAITING, HELD, LEASES, TRANSFERS, LINKS),
    *(THREADS, SOCKETS, DRAINING, PREEMPTIONS, WORKER_EVENTS, WORKERS, WORKER_FAILURES, BUILD),
)
"""All of them, in reading order."""
