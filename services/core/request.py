"""What a client asked for, once it is tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.core.quick import quick


class FinishReason(StrEnum):
    """Why a request's output ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"


class Discipline(StrEnum):
    """When the receiver grants blocks for a hand-off (architecture section 6)."""

    LATE = "late"
    EARLY = "early"


@quick
@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose output tokens, and what to tell about the choice; `engine/sampler.py` has the formulas.

    Attributes:
        max_tokens: output length limit, >= 1.
        temperature: 0 is greedy.
        seed: key of the counter-based generator; with the position it determines every draw.
        stop_token_ids: ids that end the output: the client's, and the model's own unless the client ignores those.
        top_k: only the k likeliest tokens may be drawn; 0 is no limit.
        top_p: only the smallest set of likeliest tokens with this probability together may be drawn; 1 is no limit.
        min_p: only tokens of at least this share of the likeliest one's probability may be drawn; 0 is no limit.
        repetition_penalty: divides positive logits, and multiplies negative ones, of ids in the prompt or the output.
        presence_penalty: subtracted from the logits of ids in the output.
        frequency_penalty: subtracted from the logits of ids in the output, once for each time they are there.
        logit_bias: (id, value) pairs, ids ascending, added to the logits.
        min_tokens: no id of `stop_token_ids` is chosen before the output has this many tokens.
        logprobs: tell each output token's log-probability and those of this many likeliest ones; None tells nothing.
        prompt_logprobs: the same for each prompt token but the first. Such a prompt is computed without prefix hits.
        grammar: what the output must be, as `engine/grammar.py` reads it; "" for anything. Where it may end,
            `stop_token_ids` may be chosen; where nothing else may, they are, whatever `min_tokens` says.
    """

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: str = ""

    def finish_reason(self, token_id: int, num_output_tokens: int) -> FinishReason | None:
        """Whether the output ends with `token_id` as its `num_output_tokens`-th token (counted from 1)."""
        if token_id in self.stop_token_ids:
            return FinishReason.STOP
        if num_output_tokens >= self.max_tokens:
            return FinishReason.LENGTH
        return None


@dataclass(frozen=True, slots=True)
class WorkerRef:
    """One process of a worker: a name and the number that tells it from its predecessors."""

    worker_id: str
    incarnation: int

    def __hash__(self) -> int:
        # Every table of workers is looked into by it; two incarnations of a name are seldom in one.
        return hash(self.worker_id)

    def __eq__(self, other: object) -> bool:
        if self is other:  # as nearly always
            return True
        if type(other) is not WorkerRef:
            return NotImplemented
        return self.worker_id == other.worker_id and self.incarnation == other.incarnation


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a prompt.

    Attributes:
        digest: of its content; equal images have equal embeddings.
        tokens: of its embedding, and of the places that the prompt keeps for it.
    """

    digest: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive images of a request that one worker encodes (EPD, intra-request parallelism).

    Attributes:
        first: place of the first of them among the request's images.
        count: how many.
    """

    worker: WorkerRef
    first: int
    count: int


@quick
@dataclass(frozen=True, slots=True)
class Request:
    """One generation as the workers see it.

    Attributes:
        request_id: unique among running requests of the cluster.
        attempt: number of this dispatch among all of its front door, from 1; outputs of lower ones are dropped.
        prompt: token ids.
        block_hashes: chained digest of each full block of `known_tokens`, made by the front door (protocol section 8).
        sampling: how to choose tokens.
        front_door: id of the front door that gets the tokens.
        deadline_unix_ms: the client's absolute deadline, or None.
        handoff_to: worker that decodes; None means decode where the prompt was computed.
        discipline: early or late grant; meaningless without `handoff_to`.
        priority: higher goes first where the configured order looks at it; below 0 may be shed first.
        resume: output tokens that the client has from earlier attempts; the next one has index `len(resume)`.
        hash_root: what the chain of `block_hashes` starts from; it can be made longer with this.
        tenant: whose request it is; "" without authentication.
        category: what it is about, as its client says; "" when it does not.
        ttft_slo_ms, tpot_slo_ms: wished times to the first token and of each one after it; None: none is wished.
        images: of the prompt, in order; the prompt has `tokens` ids for each.
        shards: who encodes which of them; together all.
        prefill_on: worker that computes the prompt, told to those that only encode for it; None: whoever gets this.
    """

    request_id: str
    attempt: int
    prompt: tuple[int, ...]
    block_hashes: tuple[bytes, ...]
    sampling: SamplingParams
    front_door: str
    deadline_unix_ms: int | None = None
    handoff_to: WorkerRef | None = None
    discipline: Discipline = Discipline.LATE
    priority: int = 0
    resume: tuple[int, ...] = ()
    hash_root: bytes = b""
    tenant: str = ""
    category: str = ""
    ttft_slo_ms: float | None = None
    tpot_slo_ms: float | None = None
    images: tuple[Image, ...] = ()
    shards: tuple[Shard, ...] = ()
    prefill_on: WorkerRef | None = None

    @property
    def known_tokens(self) -> tuple[int, ...]:
        """What prefill computes: the prompt, and the output so far of a request that is continued."""
        return self.prompt + self.resume

    def deadline_ns(self, unix_offset_ns: int) -> int | None:
        """The client's deadline on a monotonic clock that lies `unix_offset_ns` behind Unix time."""
        return None if self.deadline_unix_ms is None else self.deadline_unix_ms * 1_000_000 - unix_offset_ns

    @property
    def max_num_tokens(self) -> int:
        """Prompt plus the longest output."""
        return len(self.prompt) + self.sampling.max_tokens
