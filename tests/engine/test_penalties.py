"""Penalties, biases and prohibitions against transformers and against formulas written out in numpy."""

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from services.core.batch import SampleSpec
from services.engine.layers import probe_rows
from services.engine.penalties import change_, changes
from services.engine.sampler import sample

VOCAB = 50


def plain(logits: Any, spec: SampleSpec, position: int, output: list[int]) -> Any:
    """One row, one id at a time."""
    row = np.array(logits, dtype=np.float32)
    for token_id in range(len(row)):
        count = output.count(token_id)
        if spec.repetition_penalty != 1 and (count or token_id in spec.prompt):
            by = np.float32(spec.repetition_penalty)
            row[token_id] = row[token_id] / by if row[token_id] > 0 else row[token_id] * by
        if count:
            row[token_id] -= np.float32(spec.frequency_penalty) * np.float32(count)
            row[token_id] -= np.float32(spec.presence_penalty)
        row[token_id] += np.float32(dict(spec.logit_bias).get(token_id, 0.0))
        if position < spec.forbidden_before and token_id in spec.forbidden:
            row[token_id] = -np.inf
    return row


def test_repetition_counts_prompt_and_output_as_transformers_does() -> None:
    logits = probe_rows(1, VOCAB) * 3
    prompt, output = (3, 9, 9, 11), [4, 9, 20]
    found = logits.clone()
    change_(found, [SampleSpec(0.0, 0, repetition_penalty=1.3, prompt=prompt)], [7], [output])
    wanted = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[*prompt, *output]]), logits.clone())
    assert torch.equal(found, wanted)
    assert not torch.equal(found, logits)


ids = st.lists(st.integers(0, VOCAB - 1), max_size=12)


@st.composite
def specs(draw: st.DrawFn) -> SampleSpec:
    repetition = draw(st.sampled_from([1.0, 0.5, 1.2, 2.0]))
    biases = draw(st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=32), max_size=4))
    return SampleSpec(
        0.0,
        0,
        repetition_penalty=repetition,
        presence_penalty=draw(st.sampled_from([0.0, 0.7, -1.5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.3, -2.0])),
        prompt=tuple(draw(ids)) if repetition != 1.0 else (),
        logit_bias=tuple(sorted(biases.items())),
        forbidden=tuple(draw(st.lists(st.integers(0, VOCAB - 1), max_size=3))),
        forbidden_before=draw(st.integers(0, 20)),
    )


@given(st.lists(st.tuples(specs(), st.integers(0, 20), ids), min_size=1, max_size=5), st.integers(0, 99))
def test_a_batch_is_each_row_by_the_written_out_formula(
    rows: list[tuple[SampleSpec, int, list[int]]], salt: int
) -> None:
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(salt)) * 4
    found = logits.clone()
    change_(found, [spec for spec, _, _ in rows], [position for _, position, _ in rows], [out for _, _, out in rows])
    for row, (spec, position, output) in enumerate(rows):
        wanted = plain(logits[row].numpy(), spec, position, output)
        np.testing.assert_allclose(found[row].numpy(), wanted, rtol=1e-6, atol=1e-6)
        if not changes(spec, position):
            assert torch.equal(found[row], logits[row])


def test_greedy_takes_the_largest_changed_logit_and_leaves_the_logits_as_they_are() -> None:
    logits = torch.zeros(4, VOCAB)
    logits[:, 7], logits[:, 8] = 3.0, 2.0
    before = logits.clone()
    rows = [
        SampleSpec(0.0, 0),
        SampleSpec(0.0, 0, repetition_penalty=2.0, prompt=(7,)),
        SampleSpec(0.0, 0, presence_penalty=1.5),
        SampleSpec(0.0, 0, logit_bias=((20, 3.0),), forbidden=(7,), forbidden_before=10),
    ]
    assert sample(logits, rows, [5] * 4, [(), (), (7, 1), ()]) == [7, 8, 8, 20]
    assert sample(logits, rows[3:] * 4, [9, 10, 11, 9]) == [20, 7, 7, 20]
    assert torch.equal(logits, before)
