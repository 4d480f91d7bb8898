"""Logits to token ids: greedy, or drawn by a counter-based generator that no other request can disturb.

In this order, which is vLLM's: penalties, bias, forbidden tokens and the grammar's mask (`penalties.py`);
temperature; min-p, top-k and top-p (`filters.py`); the draw. At temperature 0 the largest changed logit wins, of equals
the lowest id.

A draw at temperature T is an inverse-CDF draw: with w_i = exp((logit_i - max) / T) over the tokens that the filters
kept, c_i = w_0 + ... + w_i in float64 and total c_n, the token is the first i with c_i > u · c_n. The number u in
[0, 1) has 52 bits of BLAKE2b(seed / purpose / position), so it depends on nothing else: not on the batch, the worker,
or earlier draws (counter-based generation: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

Greedy rows share one argmax. Rows that draw are computed one after the other, each in memory of its own: a row stays in
the processor's cache, and a vectorised exp over several rows may round a row differently in a different place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from services.core.batch import SampleSpec
from services.core.seeds import derive_seed
from services.engine.filters import kept
from services.engine.grammar import Mask
from services.engine.penalties import change_, changes

GREEDY_BELOW = 1e-5
"""Temperatures below this are 0: float32 could not divide by all of them."""


def uniform(seed: int, position: int, purpose: str = "token") -> float:
    """A number in [0, 1) with 52 bits.

    Args:
        position: of the token that is drawn, in its sequence.
        purpose: what the number is for; every use at one position has a name of its own.
    """
    return (derive_seed(seed, f"{purpose}/{position}") >> 11) * 2.0**-52


def is_plain(spec: SampleSpec) -> bool:
    """Whether each token is the likeliest one, with nothing changed or drawn: `greedy` is all that is needed."""
    return spec.temperature < GREEDY_BELOW and not (spec.reads_outputs or spec.logit_bias or spec.forbidden)


def greedy(logits: Tensor) -> list[int]:
    """The likeliest token of each row.

    Args:
        logits: [rows, vocab] float32.

    Raises:
        ArithmeticError: a row holds NaN, so nothing can be chosen from it.
    """
    if not len(logits):
        return []
    best = logits.argmax(-1)  # the first of equals; NaN counts as largest
    tops = logits.gather(1, best.unsqueeze(1)).squeeze(1)
    if bool(tops.isnan().any()):
        raise ArithmeticError("the logits hold NaN; the weights or the KV cache are damaged")
    tokens: list[int] = best.tolist()
    return tokens


def sample(
    logits: Tensor,
    specs: Sequence[SampleSpec],
    positions: Sequence[int],
    outputs: Sequence[Sequence[int]] | None = None,
    masks: Mapping[int, Mask] | None = None,
) -> list[int]:
    """One token id a row.

    Args:
        logits: [rows, vocab] float32; left as they are.
        positions: position of each row's new token.
        outputs: of each row, the output so far; None when no row counts tokens.
        masks: of rows with a grammar, the tokens that may follow, at least one.

    Raises:
        ArithmeticError: a row holds NaN, so nothing can be chosen from it.
    """
    tokens = greedy(logits)
    rows = [row for row, spec in enumerate(specs) if changes(spec, positions[row])]
    altered: dict[int, Tensor] = {}
    if rows:
        copies = logits[rows]
        change_(
            copies,
            [specs[row] for row in rows],
            [positions[row] for row in rows],
            [outputs[row] if outputs else () for row in rows],
            {place: masks[row] for place, row in enumerate(rows) if row in masks} if masks else None,
        )
        altered = dict(zip(rows, copies, strict=True))
        for row, token in zip(rows, copies.argmax(-1).tolist(), strict=True):
            tokens[row] = token
    for row, spec in enumerate(specs):
        if spec.temperature >= GREEDY_BELOW:
            values = altered.get(row, logits[row])
            tokens[row] = draw(values - values[tokens[row]], spec, uniform(spec.seed, positions[row]))
    return tokens


def draw(below_top: Tensor, spec: SampleSpec, u: float) -> int:
    """The token at `u` of the cumulative distribution of softmax(below_top / temperature) over what the filters keep.

    Args:
        below_top: [vocab] float32, logits minus their maximum, so that the largest is 0.
        u: in [0, 1 - 2^-52], which keeps u · total below the total.
    """
    scaled = below_top / spec.temperature
    ids = kept(scaled, spec)
    cumulative = (scaled if ids is None else scaled[ids]).exp().cumsum(0, dtype=torch.float64)
    place = int(torch.searchsorted(cumulative, u * float(cumulative[-1]), right=True))
    return place if ids is None else int(ids[place])
