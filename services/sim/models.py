"""Sizes of decoder-only transformers, dense, grouped-query or mixture of experts: what their cost follows from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.core.errors import ConfigError

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The tower that turns images into embeddings.

    Attributes:
        weights: of it.
        patches: of one image, over all its slices; each is multiplied with every weight.
        tokens: of one image's embedding, that the language model reads.
    """

    weights: int
    patches: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model.

    Attributes:
        ffn: inner width of the feed-forward, of one expert where there are several.
        gated: the feed-forward has three matrices, else two.
        experts: feed-forwards of a layer that a router chooses from; 1: dense.
        active_experts: of them that each token uses.
        shared_ffn: inner width of a feed-forward that every token uses beside its experts.
        tied: the output projection is the embedding table.
        weight_bytes, kv_bytes: of one weight, of one stored number of a key or value.
        vision: its tower; None: it reads text alone.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool = True
    experts: int = 1
    active_experts: int = 1
    shared_ffn: int = 0
    tied: bool = False
    weight_bytes: float = 2.0
    kv_bytes: float = 2.0
    vision: VisionSpec | None = None

    @property
    def attention_weights(self) -> int:
        """Weights of the four projections of one layer."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    def ffn_weights(self, width: int) -> int:
        """Weights of one feed-forward."""
        return (3 if self.gated else 2) * self.hidden * width

    @property
    def active_weights(self) -> int:
        """Weights that one token is multiplied with, the output projection apart."""
        ffn = self.active_experts * self.ffn_weights(self.ffn) + self.ffn_weights(self.shared_ffn)
        return self.layers * (self.attention_weights + ffn)

    def read_weights(self, tokens: float) -> float:
        """Weights that a step with so many tokens reads, the output projection apart.

        Of E experts of which each token uses k, a step of n tokens is expected to use E (1 - (1 - k / E)^n).
        """
        used = self.experts * (1 - (1 - self.active_experts / self.experts) ** tokens) if self.experts > 1 else 1
        ffn = used * self.ffn_weights(self.ffn) + self.ffn_weights(self.shared_ffn)
        return self.layers * (self.attention_weights + ffn)

    @property
    def total_bytes(self) -> float:
        """Memory of all weights."""
        ffn = self.experts * self.ffn_weights(self.ffn) + self.ffn_weights(self.shared_ffn)
        tables = (1 if self.tied else 2) * self.vocab * self.hidden
        return (self.layers * (self.attention_weights + ffn) + tables) * self.weight_bytes

    @property
    def kv_token_bytes(self) -> float:
        """KV of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes


def _opt(name: str, layers: int, hidden: int, heads: int) -> ModelSpec:
    """OPT (Zhang et al., 2022, table 1): no grouped queries, a feed-forward of two matrices, four times as wide."""
    size = hidden // heads
    return ModelSpec(name, layers, hidden, heads, heads, size, 4 * hidden, 50272, gated=False, tied=True)


MODELS = {
    model.name: model
    for model in (
        _opt("opt-13b", 40, 5120, 40),
        _opt("opt-66b", 64, 9216, 72),
        _opt("opt-175b", 96, 12288, 96),
        # config.json of the published checkpoints
        ModelSpec("llama-2-70b", 80, 8192, 64, 8, 128, 28672, 32000),
        ModelSpec("llama-3-8b", 32, 4096, 32, 8, 128, 14336, 128256),
        ModelSpec("llama-3-70b", 80, 8192, 64, 8, 128, 28672, 128256),
        ModelSpec("mixtral-8x7b", 32, 4096, 32, 8, 128, 14336, 32000, experts=8, active_experts=2),
        # Qwen2-7B behind SigLIP-400M; an image of 12 megapixels is 10 slices of 1,024 patches, 64 tokens each
        # (config.json and paper of MiniCPM-V 2.6, Yao et al., 2024)
        ModelSpec("minicpm-v-2.6", 28, 3584, 28, 4, 128, 18944, 151666, vision=VisionSpec(428_000_000, 10_240, 640)),
        # float16 of the CPU engine: weights of two bytes, keys and values of four
        ModelSpec("smollm2-135m-instruct", 30, 576, 9, 3, 64, 1536, 49152, tied=True, kv_bytes=4.0),
    )
}


def model_named(name: str) -> ModelSpec:
    """A model of the table.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in MODELS:
        raise ConfigError("model", name, f"known by name are {', '.join(MODELS)}; or name a folder with a config.json")
    return MODELS[name]


def model_from_hf(config: Mapping[str, Any], name: str, dtype: str = "bfloat16") -> ModelSpec:
    """A model from a Hugging Face `config.json` of the Llama, Mistral, Qwen, OPT or Mixtral families.

    Args:
        config: the parsed file.
        name: for messages.
        dtype: of weights and KV.

    Raises:
        ConfigError: a size is missing, or the dtype is not known.
    """
    if dtype not in DTYPE_BYTES:
        raise ConfigError("dtype", dtype, f"choose one of {', '.join(DTYPE_BYTES)}")

    def size(*names: str, default: int | None = None) -> int:
        for each in names:
            if isinstance(config.get(each), int):
                return int(config[each])
        if default is None:
            raise ConfigError(f"{name}: config.json", names[0], "is missing; is this a decoder-only transformer?")
        return default

    heads = size("num_attention_heads")
    hidden = size("hidden_size")
    experts = size("num_local_experts", "num_experts", "n_routed_experts", default=1)
    ffn = (
        size("moe_intermediate_size", "intermediate_size", "ffn_dim")
        if experts > 1
        else size("intermediate_size", "ffn_dim")
    )
    width = float(DTYPE_BYTES[dtype])
    return ModelSpec(
        name=name,
        layers=size("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=size("num_key_value_heads", default=heads),
        head_dim=size("head_dim", default=hidden // heads),
        ffn=ffn,
        vocab=size("vocab_size"),
        gated="ffn_dim" not in config,
        experts=experts,
        active_experts=size("num_experts_per_tok", default=1) if experts > 1 else 1,
        shared_ffn=size("shared_expert_intermediate_size", default=0),
        tied=bool(config.get("tie_word_embeddings", False)),
        weight_bytes=width,
        kv_bytes=width,
    )
