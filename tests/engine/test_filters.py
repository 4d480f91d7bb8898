"""Filters against the transformers library, and their rule for ties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from services.core.batch import SampleSpec
from services.engine.filters import kept, ranked, top_p
from services.engine.layers import probe_rows


def scaled_of(logits: Tensor, temperature: float) -> Tensor:
    return (logits - logits.max()) / temperature


def ids_of(scaled: Tensor, spec: SampleSpec) -> list[int]:
    ids = kept(scaled, spec)
    return list(range(len(scaled))) if ids is None else ids.tolist()


def reference(logits: Tensor, spec: SampleSpec) -> list[int]:
    """Ids that transformers' warpers leave above minus infinity."""
    scores = TemperatureLogitsWarper(spec.temperature)(None, logits.clone().unsqueeze(0))
    if spec.min_p:
        scores = MinPLogitsWarper(spec.min_p)(None, scores)
    if spec.top_k:
        scores = TopKLogitsWarper(spec.top_k)(None, scores)
    if spec.top_p < 1:
        scores = TopPLogitsWarper(spec.top_p)(None, scores)
    found: list[int] = scores[0].isfinite().nonzero().squeeze(1).tolist()
    return found


@pytest.mark.parametrize("vocab", [33, 1000, 49152])
@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 10**6},
        {"top_p": 0.9},
        {"top_p": 1e-6},
        {"top_p": 0.999},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"min_p": 0.01, "top_k": 20, "top_p": 0.8},
        {"top_k": 300, "top_p": 0.95},
    ],
)
def test_the_same_tokens_stay_as_in_transformers(vocab: int, fields: dict[str, float]) -> None:
    for row, logits in enumerate(probe_rows(4, vocab) * 4):
        spec = SampleSpec((0.5, 1.0, 1.7, 0.8)[row], 0, **fields)  # type: ignore[arg-type]
        assert ids_of(scaled_of(logits, spec.temperature), spec) == reference(logits, spec), (row, fields)


def test_neutral_values_filter_nothing() -> None:
    assert kept(scaled_of(probe_rows(1, 100)[0], 1.0), SampleSpec(1.0, 0)) is None


def test_of_equal_tokens_the_lowest_ids_stay() -> None:
    values = torch.tensor([0.0, -1.0, 0.0, -1.0, -1.0, -2.0])
    assert ids_of(values, SampleSpec(1.0, 0, top_k=3)) == [0, 1, 2]
    assert ids_of(values, SampleSpec(1.0, 0, top_k=4)) == [0, 1, 2, 3]
    equal = torch.zeros(50000)
    assert ids_of(equal, SampleSpec(1.0, 0, top_k=7)) == list(range(7))
    assert ids_of(equal, SampleSpec(1.0, 0, top_p=0.01)) == list(range(500))
    assert ranked(torch.tensor([1.0, 3.0, 2.0, 3.0]), 3).tolist() == [1, 3, 2]


def test_top_p_reaches_its_share_with_as_few_tokens_as_possible_however_many_it_takes() -> None:
    for sharpness in (0.01, 1.0, 8.0):  # from nearly flat, where most tokens are needed, to one token
        scaled = scaled_of(probe_rows(1, 20000)[0] * sharpness, 1.0)
        for share in (0.1, 0.5, 0.99):
            places = top_p(scaled, share)
            inside = scaled.double().softmax(0)[places]
            assert inside.sum() >= share - 1e-6
            assert inside.sum() - inside.min() < share + 1e-6


@given(
    st.lists(st.integers(-6, 0), min_size=2, max_size=40),
    st.integers(0, 45),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
)
def test_what_stays_is_a_prefix_of_the_ranking(levels: list[int], k: int, p: float, least: float) -> None:
    scaled = torch.tensor(levels, dtype=torch.float32)
    scaled -= scaled.max()
    ids = ids_of(scaled, SampleSpec(1.0, 0, top_k=k, top_p=p, min_p=least))
    ranking = sorted(range(len(levels)), key=lambda place: (-levels[place], place))
    assert sorted(ranking[: len(ids)]) == ids
    assert 1 <= len(ids) <= (k or len(levels))
