"""What a worker tells a front door about one request; part of the inner protocol of `actions.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.core.batch import TokenLogprob
from services.core.quick import quick
from services.core.request import FinishReason
from services.core.timeline import Mark


@quick
@dataclass(frozen=True, slots=True)
class RequestOutput:
    """New tokens of one request, or its end.

    Attributes:
        index: output index of the first id in `token_ids` (prefill emits 0, decode goes on from 1).
        finish: set on the last output.
        reason: machine-readable label when `finish` is ERROR, DEADLINE or CANCELLED.
        message: for people, when `finish` is ERROR.
        cached_tokens: prompt tokens found in the prefix cache; sent with index 0.
        marks: timeline marks of this worker since its last output.
        logprobs: one item for each of `token_ids`, when the client asked for them; else empty.
        prompt_logprobs: of the prompt's tokens from the second on, with index 0, when asked for; else empty.
    """

    request_id: str
    attempt: int
    index: int
    token_ids: tuple[int, ...]
    finish: FinishReason | None = None
    reason: str = ""
    message: str = ""
    cached_tokens: int = 0
    marks: tuple[Mark, ...] = ()
    logits_digests: tuple[str, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@quick
@dataclass(frozen=True, slots=True)
class StepTokens:
    """One new token for each of several requests, with nothing else to tell: most of what decode steps tell.

    Attributes:
        request_ids: whose tokens; entry i of every other field belongs to entry i of this one.
        attempts, indices: as in `RequestOutput`.
        token_ids: one each.
    """

    request_ids: tuple[str, ...]
    attempts: tuple[int, ...]
    indices: tuple[int, ...]
    token_ids: tuple[int, ...]


Output = RequestOutput | StepTokens


def by_request(outputs: Iterable[Output]) -> tuple[RequestOutput, ...]:
    """The same, one output for each request and token."""
    found: list[RequestOutput] = []
    for output in outputs:
        if isinstance(output, RequestOutput):
            found.append(output)
            continue
        fields = zip(output.request_ids, output.attempts, output.indices, output.token_ids, strict=True)
        found += [RequestOutput(name, attempt, index, (token,)) for name, attempt, index, token in fields]
    return tuple(found)
