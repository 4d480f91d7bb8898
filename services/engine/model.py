"""A decoder-only transformer of the Llama family over flattened batches and paged KV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from services.engine.attention import attend
from services.engine.input_batch import InputBatch
from services.engine.kv_pool import PagedKvPool
from services.engine.layers import Linear, LinearFactory, RmsNorm, silu_and_mul
from services.engine.model_shape import ModelShape
from services.engine.rank_group import RankGroup
from services.engine.rope import Rotary

ScoreHook = Callable[[Tensor], None]
"""Takes [at most SCORE_ROWS, vocab] float32 logits."""
SCORE_ROWS = 64
"""Logits of a long prompt are made and given away in pieces: all of them would be gigabytes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; fused projections are Q, K, V and gate, up in that order; `window` as in `ModelShape`."""

    input_norm: RmsNorm
    qkv: Linear
    q_norm: RmsNorm | None
    k_norm: RmsNorm | None
    output: Linear
    post_norm: RmsNorm
    gate_up: Linear
    down: Linear
    window: int | None


class Model:
    """The transformer.

    Args:
        tensors: by Hugging Face's names, shaped as `shape.tensors()` says, of any float dtype.
        dtype: `float32`, `float16` or `bfloat16`: how weights are kept and multiplied. Activations are float32.
        group: the ranks that hold the other shards of the model, of which `shape` and `tensors` are one; None: they
            are the whole model.

    Attributes:
        exact: rows' bits depend on nothing but their own sequence.
        notes: one line for each linear that had to fall back to a slower kind, and each limit of the model's kind.
    """

    def __init__(
        self, shape: ModelShape, tensors: dict[str, Tensor], dtype: str, group: RankGroup | None = None
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.exact = dtype == "float32"
        factory = LinearFactory(dtype)
        self._embedding = tensors["model.embed_tokens.weight"]
        self._layers = [self._layer(index, tensors, factory) for index in range(shape.num_layers)]
        self._norm = RmsNorm(tensors["model.norm.weight"].to(torch.float32, copy=True), shape.norm_eps)
        self._group = group
        # Rank 0 alone samples (see `Shard`).
        samples = group is None or group.rank == 0
        self._head = factory(tensors.get("lm_head.weight", self._embedding)) if samples else None
        self._rotary = Rotary(shape.rope, shape.head_dim, shape.max_position)
        self.notes = tuple(factory.notes)
        if shape.rope.kind == "dynamic":
            self.notes += (
                f"rope_type dynamic: served up to {shape.max_position} tokens, where its frequencies are fixed",
            )

    def _layer(self, index: int, tensors: dict[str, Tensor], factory: LinearFactory) -> Layer:
        base, head_dim = f"model.layers.{index}.", self.shape.head_dim
        attention, mlp = base + "self_attn.", base + "mlp."

        def norm(name: str) -> RmsNorm:
            # A copy: a view would keep the whole file mapped.
            return RmsNorm(tensors[f"{base}{name}.weight"].to(torch.float32, copy=True), self.shape.norm_eps)

        def fused_qkv(kind: str) -> Tensor:
            q, k, v = (tensors[f"{attention}{name}_proj.{kind}"].float() for name in "qkv")
            return torch.cat([Rotary.interleave(q, head_dim), Rotary.interleave(k, head_dim), v])

        def bias(name: str) -> Tensor | None:
            return tensors.get(f"{name}_proj.bias")  # the shape has decided which of them there are

        def fused_gate_up(kind: str) -> Tensor:
            return torch.cat([tensors[f"{mlp}gate_proj.{kind}"], tensors[f"{mlp}up_proj.{kind}"]])

        def head_norm(name: str) -> RmsNorm | None:
            if not self.shape.qk_norm:
                return None
            weight = tensors[f"{attention}{name}.weight"].float()
            return RmsNorm(Rotary.interleave(weight, head_dim), self.shape.norm_eps)

        return Layer(
            input_norm=norm("input_layernorm"),
            qkv=factory(fused_qkv("weight"), fused_qkv("bias") if self.shape.qkv_bias else None),
            q_norm=head_norm("q_norm"),
            k_norm=head_norm("k_norm"),
            output=factory(tensors[attention + "o_proj.weight"], bias(attention + "o")),
            post_norm=norm("post_attention_layernorm"),
            gate_up=factory(fused_gate_up("weight"), fused_gate_up("bias") if self.shape.mlp_bias else None),
            down=factory(tensors[mlp + "down_proj.weight"], bias(mlp + "down")),
            window=self.shape.windows[index],
        )

    def forward(
        self,
        batch: InputBatch,
        pool: PagedKvPool,
        layers_done: Callable[[int], None] = lambda count: None,
        score: ScoreHook | None = None,
    ) -> Tensor:
        """Write the KV of every token of the batch into the pool, and compute the logits of its sampled rows.

        Args:
            layers_done: told after each layer how many layers have their KV in the pool.
            score: given the logits of `batch.scored`, in order and in pieces, at the rank that samples.

        Returns:
            [sampled rows, vocab] float32; [sampled rows, 0] at a rank that does not sample.

        Raises:
            LinkError: another rank is gone or silent.
        """
        x = self._embedding.index_select(0, batch.token_ids).float()  # [tokens, hidden], a copy
        factors = self._rotary.factors(batch.positions)
        for index, (layer, pages) in enumerate(zip(self._layers, pool.data, strict=True)):
            x += self._attention(layer, x, factors, batch, pages)
            layers_done(index + 1)
            inner = silu_and_mul(layer.gate_up(layer.post_norm(x)))
            x += self._sum(layer.down(inner))
        if self._head is None:
            return torch.empty(len(batch.sampled), 0)
        if score is not None:
            for first in range(0, len(batch.scored), SCORE_ROWS):
                score(self._logits(x, batch.scored[first : first + SCORE_ROWS]))
        if not len(batch.sampled):
            return torch.empty(0, self.shape.vocab)
        return self._logits(x, batch.sampled)

    def _logits(self, x: Tensor, places: Tensor) -> Tensor:
        """[places, vocab] float32 logits of some tokens of x [tokens, hidden], at the rank that samples."""
        assert self._head is not None
        return self._head(self._norm(x.index_select(0, places)))

    def _attention(self, layer: Layer, x: Tensor, factors: Tensor, batch: InputBatch, pages: Tensor) -> Tensor:
        """x [tokens, hidden]; pages [2, num_blocks, kv_heads, block_size, head_dim], written before they are read."""
        shape = self.shape
        turned = shape.heads + shape.kv_heads
        qkv = layer.qkv(layer.input_norm(x))
        heads = qkv.view(len(x), turned + shape.kv_heads, shape.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            heads[:, : shape.heads] = layer.q_norm(heads[:, : shape.heads])
            heads[:, shape.heads : turned] = layer.k_norm(heads[:, shape.heads : turned])
        Rotary.apply_(heads[:, :turned], factors)
        kv = heads[:, shape.heads :].reshape(-1, shape.head_dim)
        pages.view(-1, shape.head_dim).index_copy_(
            0, batch.slots, kv if pages.dtype == kv.dtype else kv.to(pages.dtype)
        )
        return self._sum(layer.output(attend(heads, pages, batch.attention[layer.window])))

    def _sum(self, part: Tensor) -> Tensor:
        """Add up the shards' [tokens, hidden]."""
        return part if self._group is None else self._group.sum(part)
