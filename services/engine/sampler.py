"""Logits to token ids: greedy, or drawn by a counter-based generator that no other request can disturb.

A draw at temperature T is an inverse-CDF draw: with w_i = exp((logit_i - max) / T), c_i = w_0 + ... + w_i in float64
and total c_n, the token is the first i with c_i > u · c_n. The number u in [0, 1) has 52 bits of
BLAKE2b(seed / purpose / position), so it depends on nothing else: not on the batch, the worker, or earlier draws
(counter-based generation: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from services.core.batch import SampleSpec
from services.core.seeds import derive_seed


def uniform(seed: int, position: int, purpose: str = "token") -> float:
    """A number in [0, 1) with 52 bits.

    Args:
        position: of the token that is drawn, in its sequence.
        purpose: what the number is for; every use at one position has a name of its own.
    """
    return (derive_seed(seed, f"{purpose}/{position}") >> 11) * 2.0**-52


def sample(logits: Tensor, specs: Sequence[SampleSpec], positions: Sequence[int]) -> list[int]:
    """One token id a row; greedy ties go to the lowest id.

    Args:
        logits: [rows, vocab] float32.
        positions: position of each row's new token.

    Raises:
        ArithmeticError: a row holds NaN, so nothing can be chosen from it.
    """
    if not specs:
        return []
    best = logits.argmax(-1)  # the first of equals; NaN counts as largest
    tops = logits.gather(1, best.unsqueeze(1)).squeeze(1)
    if bool(tops.isnan().any()):
        raise ArithmeticError("the logits hold NaN; the weights or the KV cache are damaged")
    tokens: list[int] = best.tolist()
    for row, spec in enumerate(specs):
        if spec.temperature > 0:
            u = uniform(spec.seed, positions[row])
            tokens[row] = draw(logits[row] - tops[row], spec.temperature, u)
    return tokens


def draw(below_top: Tensor, temperature: float, u: float) -> int:
    """The token at `u` of the cumulative distribution of softmax(below_top / temperature).

    Args:
        below_top: [vocab] float32, logits minus their maximum, so that the largest is 0.
        u: in [0, 1 - 2^-52], which keeps u · total below the total.
    """
    cumulative = (below_top / temperature).exp_().cumsum(0, dtype=torch.float64)
    return int(torch.searchsorted(cumulative, u * float(cumulative[-1]), right=True))
