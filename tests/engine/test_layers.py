"""Layers against plain formulas, and the promise that a row's bits do not depend on its batch."""

import pytest
import torch
from torch.nn import functional

from services.engine.layers import (
    KINDS,
    HalfLinear,
    LinearFactory,
    PackedLinear,
    PlainLinear,
    RmsNorm,
    probe_rows,
    rows_are_invariant,
    silu_and_mul,
)
from services.engine.model_shape import Rope
from services.engine.rope import Rotary

INVARIANT = [PlainLinear, PackedLinear, HalfLinear]
SIZES = [(960, 576), (576, 576), (3072, 576), (576, 1536), (384, 64), (64, 128)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", INVARIANT)
@pytest.mark.parametrize("size", SIZES)
def test_rows_are_bit_equal_at_every_batch_size(kind: type, size: tuple[int, int], threads: int) -> None:
    torch.set_num_threads(threads)
    linear = kind(probe_rows(*size) * 0.05, None)
    x = probe_rows(512, size[1])
    with torch.inference_mode():
        whole = linear(x)
        for rows in [*range(1, 65), 100]:
            assert torch.equal(linear(x[7 : 7 + rows].contiguous()), whole[7 : 7 + rows]), rows


@pytest.mark.parametrize("kind", INVARIANT)
def test_rows_are_bit_equal_at_every_number_of_threads(kind: type) -> None:
    linear = kind(probe_rows(576, 1536) * 0.05, None)
    x = probe_rows(200, 1536)
    one = linear(x)
    torch.set_num_threads(2)
    assert torch.equal(linear(x), one)


def test_a_linear_that_looks_at_its_batch_is_caught() -> None:
    weight = probe_rows(32, 64)
    assert rows_are_invariant(PlainLinear(weight, None), 64)
    assert not rows_are_invariant(lambda x: functional.linear(x, weight) + 1e-6 * x.mean(), 64)


@pytest.mark.parametrize("bias", [None, probe_rows(1, 96)[0]])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float16", 1e-2), ("bfloat16", 1e-1)])
def test_every_kind_multiplies(dtype: str, bound: float, bias: torch.Tensor | None) -> None:
    weight, x = probe_rows(96, 64), probe_rows(37, 64)
    factory = LinearFactory(dtype)
    linear = factory(weight, bias)
    torch.testing.assert_close(linear(x), functional.linear(x, weight, bias), atol=bound, rtol=bound)
    assert factory.notes == []


def test_a_kind_that_fails_its_test_falls_back_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(weight: torch.Tensor, bias: torch.Tensor | None) -> PlainLinear:
        raise RuntimeError("no such operator")

    weight, x = probe_rows(32, 64), probe_rows(3, 64)
    for dtype, kind, reason in [
        ("float32", broken, "RuntimeError: no such operator"),
        ("float32", lambda w, b: lambda rows: functional.linear(rows, w) * (1 + 1e-6 * len(rows)), "depend on"),
        ("float16", lambda w, b: PlainLinear(w * 1.01, b), "results are wrong"),
    ]:
        monkeypatch.setitem(KINDS, dtype, kind)
        factory = LinearFactory(dtype)
        assert torch.equal(factory(weight)(x), PlainLinear(weight, None)(x))
        assert isinstance(factory(weight), PlainLinear)
        assert len(factory.notes) == 1 and reason in factory.notes[0]


def test_rms_norm_and_gate_match_torch() -> None:
    x, weight = probe_rows(5, 64), probe_rows(1, 64)[0]
    torch.testing.assert_close(RmsNorm(weight, 1e-5)(x), functional.rms_norm(x, (64,), weight, 1e-5))
    torch.testing.assert_close(silu_and_mul(x), functional.silu(x[:, :32]) * x[:, 32:])


def test_norm_bits_do_not_depend_on_the_batch() -> None:
    x, norm = probe_rows(64, 576), RmsNorm(probe_rows(1, 576)[0], 1e-5)
    whole = norm(x)
    for rows in (1, 2, 3, 7, 33):
        assert torch.equal(norm(x[5 : 5 + rows]), whole[5 : 5 + rows])


def test_rotary_is_the_half_split_rotation_of_checkpoints() -> None:
    head_dim, theta = 16, 10000.0
    heads = probe_rows(6, 3 * head_dim).view(6, 3, head_dim)
    positions = torch.tensor([0, 1, 5, 99, 7, 7])
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(positions.float(), frequencies).unsqueeze(1)
    first, second = heads[..., :8], heads[..., 8:]
    expected = torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )
    rotary = Rotary(Rope(theta), head_dim, 100)

    def interleave(values: torch.Tensor) -> torch.Tensor:
        return Rotary.interleave(values.reshape(-1, head_dim).t().contiguous(), head_dim).t().view(values.shape)

    turned = interleave(heads).contiguous()
    Rotary.apply_(turned, rotary.factors(positions))
    torch.testing.assert_close(turned, interleave(expected))
