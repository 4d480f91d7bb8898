"""Rotary position embedding: frequencies of every served kind, and the rotation itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from services.engine.model_shape import Rope


def frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Radians per position of each pair of a head (Su et al., 2021), stretched as `rope.kind` says.

    Returns:
        [head_dim / 2] float32, rounded as the transformers library rounds: at position 10,000 a last bit is 1e-3 rad.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "linear":  # Chen et al., 2023: positions are squeezed into the original range
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, plain)
    if rope.kind == "yarn":
        return _yarn(rope, rope.theta**exponents, head_dim)
    if rope.kind == "longrope":
        return 1.0 / (torch.tensor(rope.pair_factors, dtype=torch.float32) * rope.theta**exponents)
    assert rope.kind in ("default", "dynamic"), rope.kind  # dynamic is served up to where it begins to differ
    return plain


def _llama3(rope: Rope, plain: Tensor) -> Tensor:
    """Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1's reference code)."""
    waves = 2 * math.pi / plain  # positions per turn
    turns = rope.original_max_position / waves
    share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - share) * plain / rope.factor + share * plain
    stretched = torch.where(waves > rope.original_max_position / rope.low_freq_factor, plain / rope.factor, blended)
    return torch.where(waves < rope.original_max_position / rope.high_freq_factor, plain, stretched)


def _yarn(rope: Rope, wavelengths: Tensor, head_dim: int) -> Tensor:
    """Pairs that turn often are kept, those that turn rarely stretched, a ramp between (Peng et al., 2023, eq. 17)."""

    def pair_that_turns(times: float) -> float:
        """The pair that makes so many turns within the original context."""
        reach = rope.original_max_position / (times * 2 * math.pi)
        return head_dim * math.log(reach) / (2 * math.log(rope.theta))

    low, high = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    kept = 1 - ramp
    return 1.0 / (rope.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept


class Rotary:
    """The rotation as one complex product.

    A head's numbers must lie as neighbouring pairs (real, imaginary); `interleave` brings the rows of a projection,
    which checkpoints keep half a head apart, into that order. Q and K are permuted alike, so their product is not.
    """

    def __init__(self, rope: Rope, head_dim: int, max_position: int) -> None:
        angles = torch.outer(torch.arange(max_position, dtype=torch.float32), frequencies(rope, head_dim))
        # A table, not sines of each step's positions: vectorised sines differ from those of a buffer's last elements.
        self._table = torch.complex(angles.cos(), angles.sin())  # [max_position, head_dim / 2]
        if rope.attention_factor != 1.0:
            self._table *= rope.attention_factor

    def factors(self, positions: Tensor) -> Tensor:
        """[tokens, 1, head_dim / 2] complex64, ready to multiply every head of each token."""
        return self._table.index_select(0, positions).unsqueeze(1)

    @staticmethod
    def apply_(heads: Tensor, factors: Tensor) -> None:
        """Rotate `heads` [tokens, heads, head_dim] float32 in place; the last dimension must be contiguous."""
        heads.view(torch.complex64).mul_(factors)

    @staticmethod
    def interleave(rows: Tensor, head_dim: int) -> Tensor:
        """Reorder the first dimension of a projection or norm, head by head: i, i + head_dim / 2, i + 1, ..."""
        halves = rows.view(-1, 2, head_dim // 2, *rows.shape[1:])
        return halves.transpose(1, 2).reshape(rows.shape)
