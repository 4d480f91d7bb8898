"""What a scheduler asks of a runner for one step, and what the runner answers: ids and counts, never tensors."""

from __future__ import annotations

from dataclasses import dataclass

from services.core.quick import quick


@quick
@dataclass(frozen=True, slots=True)
class SampleSpec:
    """How to draw the token that follows a row; the position is `row.start + len(row.token_ids)`.

    One per request: nothing in it changes from token to token. `SamplingParams` says what most fields mean.

    Attributes:
        temperature: 0 is greedy.
        seed: the request's seed; a draw depends on (seed, position, purpose) alone.
        prompt: the prompt's ids where `repetition_penalty` asks for them, else empty.
        forbidden: ids that are not chosen for positions below `forbidden_before`; those that may end a `grammar`.
        logprobs: tell the token's log-probability and those of this many likeliest ones; None tells nothing.
        grammar: what the output must be; "" for anything.
    """

    temperature: float
    seed: int
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    prompt: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    forbidden: tuple[int, ...] = ()
    forbidden_before: int = 0
    logprobs: int | None = None
    grammar: str = ""

    @property
    def counts_tokens(self) -> bool:
        """Whether a penalty looks at the ids of the output so far."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def reads_outputs(self) -> bool:
        """Whether the ids of the output so far matter."""
        return bool(self.grammar) or self.counts_tokens


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """Log-probabilities asked for inside a row: `targets[i]` is the id that follows the row's i-th id.

    Attributes:
        targets: as many as the row has ids, or one fewer where nothing known follows the last.
        num_top: how many of the likeliest ids to tell beside each target.
    """

    targets: tuple[int, ...]
    num_top: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the model found a token, before any penalty, bias, temperature or filter.

    Attributes:
        token_id: the token.
        logprob: its natural logarithm of probability, rounded to float32.
        top: the likeliest (id, logprob) pairs, likeliest first, of equals the lowest id first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@quick
@dataclass(frozen=True, slots=True)
class Row:
    """Consecutive new tokens of one request.

    Attributes:
        request_id: whose tokens.
        token_ids: ids whose KV is computed in this step, at positions start, start + 1, ...
        start: position of the first id; keys and values of all earlier positions are in the pool.
        block_table: KV block ids that cover positions 0 .. start + len(token_ids) - 1.
        sample: None for a chunk that does not end the known tokens.
        outputs: the output so far, where `sample` reads it; else empty.
        score: log-probabilities of prompt tokens, where the client asked for them.
    """

    request_id: str
    token_ids: tuple[int, ...]
    start: int
    block_table: tuple[int, ...]
    sample: SampleSpec | None
    outputs: tuple[int, ...] = ()
    score: ScoreSpec | None = None

    @property
    def end(self) -> int:
        """Position after the last id."""
        return self.start + len(self.token_ids)


@quick
@dataclass(frozen=True, slots=True)
class Decodes:
    """One new token for each of several requests: field by field, because a step has many such rows.

    From step to step only tokens and starts change. What is equal is handed on as the same object, so that a runner
    sees with `is` what it need not look at again; nothing but speed may depend on that.

    Attributes:
        request_ids: whose tokens; entry i of every other field belongs to entry i of this one.
        token_ids: the newest known token of each, whose KV is computed in this step.
        starts: its position; keys and values of all earlier positions are in the pool.
        block_tables: KV block ids that cover at least positions 0 .. start.
        samples: how to draw the token that follows.
        outputs: the output so far of each whose `sample` reads it, () of the others; empty when none does.
    """

    request_ids: tuple[str, ...]
    token_ids: tuple[int, ...]
    starts: tuple[int, ...]
    block_tables: tuple[tuple[int, ...], ...]
    samples: tuple[SampleSpec, ...]
    outputs: tuple[tuple[int, ...], ...] = ()

    def rows(self) -> tuple[Row, ...]:
        """The same, row by row."""
        outputs = self.outputs or ((),) * len(self.request_ids)
        singles = [(token,) for token in self.token_ids]
        return tuple(map(Row, self.request_ids, singles, self.starts, self.block_tables, self.samples, outputs))


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image to encode, and the blocks of the pool that its embedding is written to, one after the other."""

    digest: bytes
    tokens: int
    blocks: tuple[int, ...]


@quick
@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """All rows of one step: decodes first, then chunks of prompts; or images alone, for which nothing is sampled."""

    step_id: int
    chunks: tuple[Row, ...]
    decodes: Decodes | None = None
    images: tuple[ImageRow, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row, in the order of the answer's entries."""
        return self.chunks if self.decodes is None else self.decodes.rows() + self.chunks

    @property
    def num_tokens(self) -> int:
        """Ids computed in this step."""
        return sum(len(row.token_ids) for row in self.rows)


@quick
@dataclass(frozen=True, slots=True)
class StepOutput:
    """The runner's answer.

    Attributes:
        step_id: of the batch it answers.
        tokens: one entry a row: the sampled id, or None where nothing was to be sampled.
        duration_ns: time the step took.
        logits_digests: in test mode, SHA-256 (hex) of each sampled row's float32 logits, "" elsewhere; else empty.
        logprobs: one entry a row, of the sampled id where it was asked for; empty when no row asked.
        scores: one entry a row, one item for each of its `score.targets`; empty when no row asked.
        error: what went wrong, or None; with an error no token is valid and no KV counts as written.
        refused: (request id, why) of those whose token could not be chosen as they asked; theirs is not valid.
    """

    step_id: int
    tokens: tuple[int | None, ...]
    duration_ns: int = 0
    logits_digests: tuple[str, ...] = ()
    error: str | None = None
    logprobs: tuple[TokenLogprob | None, ...] = ()
    scores: tuple[tuple[TokenLogprob, ...], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
