"""What a worker tells a front door about one request; part of the inner protocol of `actions.py`."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.batch import TokenLogprob
from services.core.request import FinishReason
from services.core.timeline import Mark


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
