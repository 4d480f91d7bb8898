"""Linear, norm and gated activation: every row's result is the same bits whichever rows share its batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Linear = Callable[[Tensor], Tensor]
"""x [rows, in] float32 -> [rows, out] float32."""

# Matrix libraries choose their inner loops by the number of rows, and with them the order in which a row is summed.
# Measured on AVX-512 machines of two makers at 1 and 2 threads: oneDNN differs at one row alone, so one row is padded
# to two; MKL differs up to 128 rows, so the fallback only ever multiplies blocks of exactly 32 rows; fbgemm's fp16
# product never differs.
PACKED_MIN_ROWS = 2
PLAIN_ROWS = 32
HALF_MAX = 65504.0
TESTED_ROWS = (1, 2, 3, 5, 8, 17, 33, 48)


def pad_rows(x: Tensor, rows: int) -> Tensor:
    """`x` with zero rows below, up to `rows`."""
    return functional.pad(x, (0, 0, 0, rows - x.shape[0]))


class PlainLinear:
    """float32 product in blocks of 32 rows; the weight stays where it is, memory-mapped if it was.

    Args:
        weight: [out, in] float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight_t = weight.t()
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        blocks = -(-rows // PLAIN_ROWS)
        x_blocks = pad_rows(x, blocks * PLAIN_ROWS).view(blocks, PLAIN_ROWS, -1)
        out = torch.bmm(x_blocks, self._weight_t.expand(blocks, -1, -1)).view(blocks * PLAIN_ROWS, -1)[:rows]
        return out if self._bias is None else out + self._bias


class PackedLinear:
    """float32 product over a weight that oneDNN has repacked: 2 to 4 times as fast as the plain one."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 32)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows < PACKED_MIN_ROWS:
            x = pad_rows(x, PACKED_MIN_ROWS)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return out[:rows]


class HalfLinear:
    """Product of float32 rows with a weight kept in fp16 (fbgemm), summed in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        return out


class Bfloat16Linear:
    """Product in bf16 over a weight that oneDNN has repacked, float32 rows before and after; not batch-invariant."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(torch.bfloat16).contiguous(), 32)
        self._bias = None if bias is None else bias.to(torch.bfloat16)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.to(torch.bfloat16)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        return out.float()


def bfloat16_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """The fastest product over a weight rounded to bf16.

    A CPU without bf16 instructions takes 5 times as long for it as for fp16, which holds every such number between
    2^-14 and 65504 exactly; there the rows stay float32 as well.
    """
    rounded = weight.to(torch.bfloat16)
    if torch.cpu._is_avx512_bf16_supported() or float(rounded.abs().max()) > HALF_MAX:
        return Bfloat16Linear(weight, bias)
    return HalfLinear(rounded.float(), bias)


KINDS: dict[str, Callable[[Tensor, Tensor | None], Linear]] = {
    "float32": PackedLinear,
    "float16": HalfLinear,
    "bfloat16": bfloat16_linear,
}


class LinearFactory:
    """Makes the fastest linear of a dtype that passes its test on this machine, else the plain one.

    The fast kinds rest on operators of torch that are private, so the first weight of each shape is tried out.

    Attributes:
        notes: one line for each shape that fell back, with the reason.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._usable: dict[tuple[int, int], bool] = {}
        self.notes: list[str] = []

    def __call__(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """A linear of `weight` [out, in] and `bias` [out], of any float dtype."""
        weight = weight.float()
        bias = None if bias is None else bias.float()
        size = (weight.shape[0], weight.shape[1])
        if not self._usable.get(size, True):
            return PlainLinear(weight, bias)
        try:
            linear = KINDS[self._dtype](weight, bias)
            problem = "" if size in self._usable else self._problem(linear, weight, bias)
        except (RuntimeError, AttributeError) as error:
            problem = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        self._usable[size] = not problem
        if not problem:
            return linear
        self.notes.append(f"{self._dtype} linear {size[1]} -> {size[0]}: {problem}; using plain float32 blocks")
        return PlainLinear(weight, bias)

    def _problem(self, linear: Linear, weight: Tensor, bias: Tensor | None) -> str:
        """What is wrong with the results of a freshly made linear, or ""."""
        if self._dtype != "bfloat16" and not rows_are_invariant(linear, weight.shape[1]):
            return "rows depend on their batch"
        x = probe_rows(4, weight.shape[1])
        stored = weight.half().float() if self._dtype == "float16" else weight
        exact = functional.linear(x, stored, bias)
        bound = (0.02 if self._dtype == "bfloat16" else 1e-4) * float(exact.abs().max())
        return "" if float((linear(x) - exact).abs().max()) <= bound else "results are wrong"


def probe_rows(rows: int, width: int) -> Tensor:
    """[rows, width] float32 numbers that look random and are the same everywhere."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows * 65537 + width))


def rows_are_invariant(linear: Linear, width: int) -> bool:
    """Whether each row's result is bit-equal alone, in small batches, at other places, and in a batch of 64."""
    x = probe_rows(64, width)
    whole = linear(x)
    return all(
        torch.equal(linear(x[start : start + rows].contiguous()), whole[start : start + rows])
        for rows in TESTED_ROWS
        for start in (0, 11)
    )


class RmsNorm:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich, 2019).

    Args:
        weight: [width] float32.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = torch.tensor(eps)  # a number would be made into a tensor at every call

    def __call__(self, x: Tensor) -> Tensor:
        # Plain operators: torch's own rms_norm takes as long for one row on a CPU and 4 times as long for 512. A norm
        # and a hypot in their place would halve the time for one row, and make the result's error half as large again.
        scale = (x * x).mean(-1, keepdim=True).add_(self._eps).rsqrt_()
        return (x * scale).mul_(self._weight)


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) · up, where `gate_up` [rows, 2 * ffn] has the gate first (SwiGLU, Shazeer 2020)."""
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate).mul_(up)
