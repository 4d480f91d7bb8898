"""Which tokens may be drawn: min-p, then top-k, then top-p, of equal tokens always those of the lowest ids.

The filters narrow one row in turn, each seeing what the one before it left: top-k counts tokens that passed min-p, and
top-p's probabilities are renormalised over what top-k left. The order is vLLM's; the transformers library's warpers are
the same, but its generate() puts min-p last, so that with both min-p and top-p it may keep other tokens.
A filter at its neutral value does nothing and costs nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from services.core.batch import SampleSpec

FIRST_RANKED = 256
"""Tokens that top-p sorts first; it sorts more of them only when these are not probable enough together."""


def kept(scaled: Tensor, spec: SampleSpec) -> Tensor | None:
    """Ids that may be drawn, ascending; None for all.

    Args:
        scaled: [vocab] float32, (logits - their maximum) / temperature, so that the largest is 0.
    """
    ids: Tensor | None = None
    if spec.min_p > 0:
        ids = (scaled >= math.log(spec.min_p)).nonzero().squeeze(1)
    if 0 < spec.top_k < len(scaled if ids is None else ids):
        ids = narrow(ids, top_k(scaled if ids is None else scaled[ids], spec.top_k))
    if spec.top_p < 1:
        ids = narrow(ids, top_p(scaled if ids is None else scaled[ids], spec.top_p))
    return ids


def narrow(ids: Tensor | None, places: Tensor) -> Tensor:
    """Places among `ids`, or among all tokens when it is None, as ids."""
    return places if ids is None else ids[places]


def ranked(values: Tensor, k: int) -> Tensor:
    """Places of the k largest values, largest first, of equals the lowest place first.

    Args:
        values: [n] without NaN.
        k: from 1 to n.
    """
    least = values.topk(k, sorted=False).values.min()
    candidates = (values >= least).nonzero().squeeze(1)  # more than k when several equal the least
    order = values[candidates].sort(descending=True, stable=True).indices
    return candidates[order[:k]]


def top_k(values: Tensor, k: int) -> Tensor:
    """Places of the k largest of [n] values, ascending; exactly k."""
    return ranked(values, k).sort().values


def top_p(scaled: Tensor, p: float) -> Tensor:
    """Places of the smallest set of likeliest tokens whose probability together reaches p, ascending; at least one.

    A token belongs to it when the tokens before it in the order of `ranked` have less than p together (nucleus
    sampling: Holtzman et al., "The curious case of neural text degeneration", 2020).

    Args:
        scaled: [n] float32 log-weights of which the largest is 0.
    """
    total = float(scaled.exp().sum(dtype=torch.float64))
    count = FIRST_RANKED
    while True:
        places = ranked(scaled, min(count, len(scaled)))
        cumulative = scaled[places].exp().cumsum(0, dtype=torch.float64)
        # The first token has nothing before it; each other one has the cumulative weight of its predecessor.
        wanted = 1 + int((cumulative[:-1] < p * total).sum())
        if wanted < len(places) or len(places) == len(scaled):
            return places[:wanted].sort().values
        count *= 8
