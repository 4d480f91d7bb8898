"""What a scheduler asks of a runner for one step, and what the runner answers: ids and counts, never tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """How to draw the token that follows a row; the position is `row.start + len(row.token_ids)`.

    Attributes:
        temperature: 0 is greedy.
        seed: the request's seed; a draw depends on (seed, position, purpose) alone.
    """

    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """Consecutive new tokens of one request.

    Attributes:
        request_id: whose tokens.
        token_ids: ids whose KV is computed in this step, at positions start, start + 1, ...
        start: position of the first id; keys and values of all earlier positions are in the pool.
        block_table: KV block ids that cover positions 0 .. start + len(token_ids) - 1.
        sample: None for a chunk that does not end the known tokens.
    """

    request_id: str
    token_ids: tuple[int, ...]
    start: int
    block_table: tuple[int, ...]
    sample: SampleSpec | None

    @property
    def end(self) -> int:
        """Position after the last id."""
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """All rows of one step."""

    step_id: int
    rows: tuple[Row, ...]

    @property
    def num_tokens(self) -> int:
        """Ids computed in this step."""
        return sum(len(row.token_ids) for row in self.rows)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The runner's answer.

    Attributes:
        step_id: of the batch it answers.
        tokens: one entry a row: the sampled id, or None where nothing was to be sampled.
        duration_ns: time the step took.
        logits_digests: in test mode, SHA-256 (hex) of each sampled row's float32 logits, "" elsewhere; else empty.
        error: what went wrong, or None; with an error no token is valid and no KV counts as written.
    """

    step_id: int
    tokens: tuple[int | None, ...]
    duration_ns: int = 0
    logits_digests: tuple[str, ...] = ()
    error: str | None = None
