"""A request on one worker, and the order in which waiting ones are taken."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from services.core.batch import Row, SampleSpec, ScoreSpec, TokenLogprob
from services.core.clock import NS_PER_S
from services.core.registry import Registry
from services.core.request import FinishReason, Request
from services.core.timeline import Mark, MarkKind

OF_REQUEST = ("spec", "num_prompt", "num_given", "max_num_tokens", "stop_ids")
"""Fields of a `RequestState` that repeat what its request says."""


@dataclass(slots=True, eq=False)
class RequestState:
    """One request on one worker: known tokens, and how many of them have their KV in the pool.

    The unifying rule: a request is a count of computed tokens that catches up with its known tokens. Prompt chunks,
    prefix hits, decode steps and recomputation after a preemption are all the same thing.

    Attributes:
        tokens: prompt, then output; it starts with the output of earlier attempts (`Request.resume`).
        num_computed: leading tokens whose KV is in `blocks`.
        blocks: block ids, each with one reference of this request; empty while it waits.
        stage: name of the stage that hears of its tokens.
        deadline_ns: on this process's clock.
        removed: it is over, but its blocks are held until the running step ends.
        pinned: a hand-off is sending its blocks; it is never preempted.
        order: its key in the configured order; the lowest runs first and is preempted last.
        marks: timeline marks that were not sent yet.
        prompt_logprobs: of the prompt's tokens from the second on, as far as computed; they wait for the first token.
        spec: how to sample, the same for every token.
        num_prompt: tokens of the prompt.
        num_given: tokens that came with the request: the prompt, and the output of earlier attempts.
        max_num_tokens: tokens at which the output has its longest length.
        stop_ids: tokens that end the output.
    """

    request: Request
    stage: str
    tokens: list[int]
    arrived_ns: int
    deadline_ns: int | None = None
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    num_preemptions: int = 0
    removed: bool = False
    pinned: bool = False
    order: tuple[int, ...] = ()
    digests: list[str] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    spec: SampleSpec = field(init=False)
    num_prompt: int = field(init=False)
    num_given: int = field(init=False)
    max_num_tokens: int = field(init=False)
    stop_ids: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.spec = sample_spec(self.request)
        # Looked at for every token that is made; a request changes none of them.
        self.num_prompt = len(self.request.prompt)
        self.num_given = self.num_prompt + len(self.request.resume)
        self.max_num_tokens = self.request.max_num_tokens
        self.stop_ids = self.request.sampling.stop_token_ids

    @property
    def num_outputs(self) -> int:
        """Output tokens known so far."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_new_outputs(self) -> int:
        """Output tokens of this attempt."""
        return len(self.tokens) - self.num_given

    @property
    def num_uncomputed(self) -> int:
        """Known tokens whose KV is still to be computed."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Only the newest token is uncomputed, and it was made by this attempt."""
        return self.num_computed + 1 == len(self.tokens) > self.num_given

    @property
    def wants_scores(self) -> bool:
        """The prompt's log-probabilities are to be told, and were not yet."""
        return self.request.sampling.prompt_logprobs is not None and self.num_outputs == 0

    def finish_reason(self, newest: int) -> FinishReason | None:
        """Whether the output ends with its newest token (`SamplingParams.finish_reason`)."""
        if newest in self.stop_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.max_num_tokens else None

    def outputs_for_sampling(self) -> tuple[int, ...]:
        """The output so far if a penalty or a grammar reads it, else nothing."""
        return tuple(self.tokens[len(self.request.prompt) :]) if self.spec.reads_outputs else ()

    def score_spec(self, start: int, end: int) -> ScoreSpec | None:
        """What to score in a row of the prompt's positions start .. end - 1."""
        num_top = self.request.sampling.prompt_logprobs
        if num_top is None or not self.wants_scores:
            return None
        return ScoreSpec(self.request.prompt[start + 1 : end + 1], num_top)

    def mark(self, kind: MarkKind, at_ns: int) -> None:
        """Note something for the timeline."""
        self.marks.append(Mark(kind, at_ns))

    def take_marks(self) -> tuple[Mark, ...]:
        """Marks since the last call."""
        marks, self.marks = tuple(self.marks), []
        return marks

    def take_digests(self) -> tuple[str, ...]:
        """Digests since the last call."""
        digests, self.digests = tuple(self.digests), []
        return digests

    def take_prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        """The prompt's log-probabilities, once."""
        logprobs, self.prompt_logprobs = tuple(self.prompt_logprobs), []
        return logprobs

    def state_fields(self) -> dict[str, object]:
        """Plain values for the decision log."""
        apart = ("request", "marks", "tokens", "prompt_logprobs", *OF_REQUEST)
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in apart}
        fields["request"] = [self.request.request_id, self.request.attempt]
        fields["outputs"] = self.tokens[len(self.request.prompt) :]
        fields["prompt_logprobs"] = [[each.token_id, each.logprob, each.top] for each in self.prompt_logprobs]
        fields["marks"] = [[mark.kind, mark.at_ns] for mark in self.marks]
        return fields


def sample_spec(request: Request) -> SampleSpec:
    """What the sampler needs of a request."""
    sampling = request.sampling
    return SampleSpec(
        temperature=sampling.temperature,
        seed=sampling.seed,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        prompt=request.prompt if sampling.repetition_penalty != 1.0 else (),
        logit_bias=sampling.logit_bias,
        forbidden=sampling.stop_token_ids if sampling.min_tokens or sampling.grammar else (),
        # The first position with min_tokens outputs before it.
        forbidden_before=len(request.prompt) + sampling.min_tokens,
        logprobs=sampling.logprobs,
        grammar=sampling.grammar,
    )


def chunk_row(state: RequestState, count: int, block_size: int) -> Row:
    """The row that computes the next `count` tokens of a request."""
    start, end = state.num_computed, state.num_computed + count
    ends = end == len(state.tokens)
    return Row(
        state.request.request_id,
        tuple(state.tokens[start:end]),
        start,
        tuple(state.blocks[: -(-end // block_size)]),
        state.spec if ends else None,
        state.outputs_for_sampling() if ends else (),
        state.score_spec(start, end),
    )


OrderKey = Callable[[RequestState, int], tuple[int, ...]]
"""(request, ageing in ns) -> key. A key never changes: what ages is the advantage over those that come later, so two
requests never swap places while they wait, and from some age on a request goes before every new one."""
ORDERS: Registry[OrderKey] = Registry("order", "scheduler.order")
TOKENS_PER_AGEING = 1000
NO_DEADLINE_NS = 600 * NS_PER_S
"""What a request without a deadline is given under `edf`."""


@ORDERS.register("fcfs")
def first_come_first_served(state: RequestState, _ageing_ns: int) -> tuple[int, ...]:
    """By arrival on this worker."""
    return (state.arrived_ns,)


@ORDERS.register("priority")
def highest_priority_first(state: RequestState, ageing_ns: int) -> tuple[int, ...]:
    """By priority; each level is worth `ageing` of waiting."""
    return (state.arrived_ns - state.request.priority * ageing_ns, state.arrived_ns)


@ORDERS.register("shortest_first")
def shortest_first(state: RequestState, ageing_ns: int) -> tuple[int, ...]:
    """By tokens to compute when it arrived; 1000 fewer are worth `ageing` of waiting."""
    known = len(state.request.prompt) + len(state.request.resume)
    return (state.arrived_ns + known * ageing_ns // TOKENS_PER_AGEING, state.arrived_ns)


@ORDERS.register("edf")
def earliest_deadline_first(state: RequestState, _ageing_ns: int) -> tuple[int, ...]:
    """By the client's deadline; new deadlines lie in the future, so time alone brings everyone to the front."""
    deadline = state.arrived_ns + NO_DEADLINE_NS if state.deadline_ns is None else state.deadline_ns
    return (deadline, state.arrived_ns)


class WaitingQueue:
    """Requests without blocks, by their order; equal ones keep their order of arrival.

    Preempted requests go first whatever the order: they have cost work already (Sarathi-Serve).
    """

    def __init__(self) -> None:
        self._preempted: list[RequestState] = []
        self._queue: list[RequestState] = []

    def __len__(self) -> int:
        return len(self._preempted) + len(self._queue)

    def __iter__(self) -> Iterator[RequestState]:
        yield from self._preempted
        yield from self._queue

    @property
    def num_preempted(self) -> int:
        """Requests that had blocks before."""
        return len(self._preempted)

    def push(self, state: RequestState) -> None:
        """Add a request in its place."""
        insort(self._preempted if state.num_preemptions else self._queue, state, key=lambda each: each.order)

    def head(self) -> RequestState | None:
        """The next request to take."""
        queue = self._preempted or self._queue
        return queue[0] if queue else None

    def remove(self, state: RequestState) -> None:
        """Take a request out."""
        (self._preempted if state.num_preemptions else self._queue).remove(state)
