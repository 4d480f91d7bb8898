"""Sizes and constants of one decoder-only transformer: its tensors and the memory they take; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# What a stored key or value takes. float16 means fp16 weights under fp32 activations, so its keys are fp32.
KV_DTYPE = {"float32": "float32", "float16": "float32", "bfloat16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn into rotations of Q and K; `rope.frequencies` has the formulas.

    Attributes:
        theta: the base; pair i of a head turns by position * theta^(-2i / head_dim) radians.
        kind: `default`, `linear`, `dynamic`, `llama3`, `yarn` or `longrope`, Hugging Face's `rope_type`.
        factor: how many times as long a context the model was stretched to.
        original_max_position: the context length before that (llama3, yarn).
        attention_factor: multiplies the rotated Q and K (yarn, longrope).
        low_freq_factor, high_freq_factor: waves longer than original / low are stretched, those shorter than
            original / high are not (llama3).
        beta_fast, beta_slow: pairs that turn more than `beta_fast` times within the original context are not stretched,
            those that turn less than `beta_slow` times wholly (yarn).
        truncate: round the borders between those pairs to whole pairs (yarn).
        pair_factors: [head_dim / 2] what each pair's frequency is divided by (longrope).
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_max_position: int = 0
    attention_factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    pair_factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes and constants of one decoder-only transformer, or of one tensor-parallel rank's part of it.

    Attributes:
        heads, kv_heads, head_dim: attention; each group of heads / kv_heads query heads shares one KV head.
        ffn: inner width of the gated feed-forward.
        tied: the output projection is the embedding table.
        max_position: tokens of prompt plus output that the model was made for.
        eos_token_ids: ids that end an output.
        bos_token_id: id that tokenizers put first, or None.
        qkv_bias: the projections to Q, K and V have biases (Qwen2; Llama and Qwen3 with attention_bias).
        output_bias: so has the projection out of attention (Llama and Qwen3 with attention_bias).
        mlp_bias: so have the three of the feed-forward (Llama with mlp_bias).
        qk_norm: Q and K are normalised for each head before rotation (Qwen3).
        window: how many keys a query sees in the layers of `windowed_layers`, its own included; None: all.
    """

    architecture: str
    num_layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    norm_eps: float
    tied: bool
    max_position: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    rope: Rope = Rope()
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    windowed_layers: tuple[int, ...] = ()

    @property
    def windows(self) -> tuple[int | None, ...]:
        """For each layer how many keys a query sees at most, its own included; None: all."""
        return tuple(self.window if layer in self.windowed_layers else None for layer in range(self.num_layers))

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of K and V of one token over all layers, for a configured `model.dtype`."""
        return 2 * self.num_layers * self.kv_heads * self.head_dim * DTYPE_BYTES[KV_DTYPE[dtype]]

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of memory that the weights take in `model.dtype`, apart from a memory-mapped embedding table."""
        tensors = self.tensors()
        embedding = tensors["model.embed_tokens.weight"]
        elements = sum(math.prod(size) for size in tensors.values()) - (0 if self.tied else math.prod(embedding))
        return elements * DTYPE_BYTES[dtype]

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the checkpoint, by Hugging Face's names."""
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.num_layers):
            base = f"model.layers.{layer}."
            found[base + "input_layernorm.weight"] = (self.hidden,)
            for name, rows, columns, biased in self._projections():
                found[f"{base}{name}.weight"] = (rows, columns)
                if biased:
                    found[f"{base}{name}.bias"] = (rows,)
            if self.qk_norm:
                found[base + "self_attn.q_norm.weight"] = (self.head_dim,)
                found[base + "self_attn.k_norm.weight"] = (self.head_dim,)
            found[base + "post_attention_layernorm.weight"] = (self.hidden,)
        found["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            found["lm_head.weight"] = (self.vocab, self.hidden)
        return found

    def _projections(self) -> list[tuple[str, int, int, bool]]:
        """(name, outputs, inputs, has a bias) of each linear of a layer."""
        query, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [
            ("self_attn.q_proj", query, self.hidden, self.qkv_bias),
            ("self_attn.k_proj", keys, self.hidden, self.qkv_bias),
            ("self_attn.v_proj", keys, self.hidden, self.qkv_bias),
            ("self_attn.o_proj", self.hidden, query, self.output_bias),
            ("mlp.gate_proj", self.ffn, self.hidden, self.mlp_bias),
            ("mlp.up_proj", self.ffn, self.hidden, self.mlp_bias),
            ("mlp.down_proj", self.hidden, self.ffn, self.mlp_bias),
        ]
