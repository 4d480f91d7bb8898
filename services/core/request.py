"""What a client asked for, once it is tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose output tokens.

    Attributes:
        max_tokens: output length limit, >= 1.
        temperature: 0 is greedy.
        seed: key of the counter-based generator; with the position it determines every draw.
        stop_token_ids: ids that end the output (the model's end tokens, put in by the front door).
        ignore_eos: go on to `max_tokens` whatever is sampled.
    """

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def finish_reason(self, token_id: int, num_output_tokens: int) -> FinishReason | None:
        """Whether the output ends with `token_id` as its `num_output_tokens`-th token (counted from 1)."""
        if not self.ignore_eos and token_id in self.stop_token_ids:
            return FinishReason.STOP
        if num_output_tokens >= self.max_tokens:
            return FinishReason.LENGTH
        return None


@dataclass(frozen=True, slots=True)
class WorkerRef:
    """One process of a worker: a name and the number that tells it from its predecessors."""

    worker_id: str
    incarnation: int


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
