"""One trace a request: its identity in W3C headers, its spans from the timeline, and the last ones kept for people.

Names of attributes are those of OpenTelemetry's semantic conventions for generative AI (`gen_ai.*`), and ours under
`triptych.*`. A span never has what a prompt or an output said, nor who sent it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from opentelemetry.trace import SpanContext, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.core.clock import NS_PER_S
from services.core.request import FinishReason, Request, SamplingParams
from services.core.seeds import new_span_id, new_trace_id
from services.core.timeline import MarkKind, StageTime, Timeline

TRACEPARENT = "traceparent"
SPAN_IDS = 1 << 64
Value = str | bool | int | float | tuple[str, ...]
_headers = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class TraceIdentity:
    """Which trace a call belongs to.

    Attributes:
        own: trace id, and id of the call's own span.
        parent: the client's span, or None where the trace begins here.
    """

    own: SpanContext
    parent: SpanContext | None

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.own.trace_id:032x}"

    @property
    def header(self) -> str:
        """`traceparent` of what this call sets off, and of its answer (W3C Trace Context, version 00)."""
        return f"00-{self.own.trace_id:032x}-{self.own.span_id:016x}-{self.own.trace_flags:02x}"


def join_trace(headers: Mapping[str, str]) -> TraceIdentity:
    """Go on with the trace that a client's headers name, or begin one; headers that are wrong name none."""
    if TRACEPARENT in headers:
        parent = get_current_span(_headers.extract(headers)).get_span_context()
        if parent.is_valid:
            flags, state = parent.trace_flags, parent.trace_state
            return TraceIdentity(SpanContext(parent.trace_id, new_span_id(), False, flags, state), parent)
    own = SpanContext(new_trace_id(), new_span_id(), False, TraceFlags(TraceFlags.SAMPLED))
    return TraceIdentity(own, None)


@dataclass(frozen=True, slots=True)
class Span:
    """One span.

    Attributes:
        span_id: 64 bits, unique in its trace.
        parent_id: of the span around it; 0: none.
        start_ns: front door's monotonic clock, as is `end_ns` and the times of `events`.
        where: worker id, or front door's id.
        events: (name, time) of what happened at one moment.
        error: canonical status name of what failed, "" when nothing did.
    """

    name: str
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    where: str
    pid: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    events: tuple[tuple[str, int], ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """One request.

    Attributes:
        unix_ns: Unix time of the first span's start.
        spans: parents before children, children in order of time; the first one is the whole call.
    """

    identity: TraceIdentity
    request_id: str
    unix_ns: int
    spans: tuple[Span, ...]


@dataclass(slots=True)
class TracedOutput:
    """What is kept of one output of a call: neither its prompt nor the time of each token.

    Attributes:
        marks: its timeline, without tokens.
        first_token_ns: monotonic; None: there was none.
        tpot_ns: mean time per output token after the first; None below two tokens.
        cache: what the cache had: exact, semantic, miss; "" when it was not asked.
    """

    request_id: str
    sampling: SamplingParams
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    marks: Timeline
    first_token_ns: int | None
    tpot_ns: float | None
    finish: FinishReason | None
    cache: str


def traced_output(
    request: Request, timeline: Timeline, cached_tokens: int, finish: FinishReason | None, cache: str = ""
) -> TracedOutput:
    """What is kept of an output that is over."""
    times = timeline.token_times_ns
    return TracedOutput(
        *(request.request_id, request.sampling, len(request.prompt), cached_tokens, len(times)),
        *(Timeline(timeline.entries), times[0] if times else None, timeline.tpot_ns, finish, cache),
    )


@dataclass(slots=True)
class TracedCall:
    """A call that is over; its spans are made when somebody wants them.

    Attributes:
        operation: `chat` or `text_completion`.
        code: canonical status name.
        start_ns: monotonic, as is `end_ns`.
        unix_ns: Unix time of `end_ns`, to a millisecond.
        outputs: at least one.
    """

    identity: TraceIdentity
    method: str
    operation: str
    model: str
    code: str
    start_ns: int
    end_ns: int
    unix_ns: int
    where: str
    pid: int
    outputs: Sequence[TracedOutput]


def make_trace(call: TracedCall) -> Trace:
    """The spans of a call: itself, its outputs where there are several, and in each of these its stages.

    The stages of an output add up to the call: the last one, deliver, ends when the last message was written.
    """
    root = call.identity.own.span_id
    parent = 0 if call.identity.parent is None else call.identity.parent.span_id
    firsts = [output.first_token_ns for output in call.outputs if output.first_token_ns is not None]
    events = (("first_token", min(firsts)),) if firsts else ()
    error = "" if call.code == "OK" else call.code
    about = call_attributes(call)
    spans = [
        Span(
            f"{call.operation} {call.model}",
            *(root, parent, call.start_ns, call.end_ns, call.where, call.pid),
            *(about, events, error),
        )
    ]
    for number, output in enumerate(call.outputs):
        above = root
        if len(call.outputs) > 1:
            above = (root + len(spans)) % SPAN_IDS or 1
            begun = output.marks.entries[0].at_ns
            told = output_attributes(output)
            spans.append(Span(f"output {number}", above, root, begun, call.end_ns, call.where, call.pid, told))
        for stage in output.marks.stages(call.end_ns):
            spans.append(stage_span(stage, output, (root + len(spans)) % SPAN_IDS or 1, above))
    unix_ns = call.unix_ns - (call.end_ns - call.start_ns)
    return Trace(call.identity, call.outputs[0].request_id, unix_ns, tuple(spans))


def stage_span(stage: StageTime, output: TracedOutput, span_id: int, parent_id: int) -> Span:
    """A stage, with the marks that lie in it as events."""
    marks = output.marks.entries
    events = [(mark.kind.value, mark.at_ns) for mark in marks if stage.start_ns <= mark.at_ns < stage.end_ns]
    events.sort(key=lambda event: event[1])
    attributes: dict[str, Value] = {"triptych.stage": stage.stage.value, "triptych.worker.id": stage.where}
    return Span(
        stage.stage.value,
        *(span_id, parent_id, stage.start_ns, stage.end_ns, stage.where, stage.pid),
        *(attributes, tuple(events)),
    )


def call_attributes(call: TracedCall) -> dict[str, Value]:
    """What is told of a call: the request, and what came of it."""
    first, count = call.outputs[0], len(call.outputs)
    sampling = first.sampling
    told: dict[str, Value] = {
        "gen_ai.operation.name": call.operation,
        "gen_ai.provider.name": "triptych",
        "gen_ai.request.model": call.model,
        "gen_ai.response.model": call.model,
        "gen_ai.response.id": first.request_id,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.usage.input_tokens": first.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": first.cached_tokens,
        "gen_ai.usage.output_tokens": sum(output.output_tokens for output in call.outputs),
        "triptych.request.id": first.request_id,
        "rpc.method": call.method,
    }
    finishes = tuple(output.finish.value for output in call.outputs if output.finish is not None)
    if finishes:
        told["gen_ai.response.finish_reasons"] = finishes
    if count > 1:
        told["gen_ai.request.choice.count"] = count
    if first.first_token_ns is not None:
        told["gen_ai.response.time_to_first_chunk"] = (first.first_token_ns - call.start_ns) / NS_PER_S
    if call.code != "OK":
        told["error.type"] = call.code
    return told | {key: value for key, value in output_attributes(first).items() if count == 1}


def output_attributes(output: TracedOutput) -> dict[str, Value]:
    """What is told of one output."""
    kinds = [entry.kind for entry in output.marks.entries]
    told: dict[str, Value] = {
        "triptych.attempts": sum(kind in (MarkKind.DISPATCHED, MarkKind.RETRIED, MarkKind.CONTINUED) for kind in kinds),
        "triptych.preemptions": kinds.count(MarkKind.PREEMPTED),
    }
    if output.cache:
        told["triptych.cache"] = output.cache
    if output.tpot_ns is not None:
        told["triptych.time_per_output_token_s"] = output.tpot_ns / NS_PER_S
    return told


class RecentTraces:
    """The last traces, the oldest forgotten first.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._kept: deque[TracedCall] = deque(maxlen=most)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, call: TracedCall) -> None:
        """Keep a call."""
        self._kept.append(call)

    def find(self, name: str, most: int) -> list[Trace]:
        """Traces of that request id or trace id, newest first; "": of any."""
        found = (call for call in reversed(self._kept) if not name or name in names_of(call))
        return [make_trace(call) for call in islice(found, most)]


def names_of(call: TracedCall) -> tuple[str, str]:
    """What people may ask for it by."""
    return call.outputs[0].request_id, call.identity.trace_id
