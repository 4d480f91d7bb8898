"""The metadata of a .gguf file as the config.json that describes the same model; inverts llama.cpp's converter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.core.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFReader

# Mistral's files are of llama.cpp's architecture "llama"; transformers reads "mistral" as well.
ARCHITECTURE_OF = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SCALINGS = ("none", "linear", "yarn")
ROPE_FACTORS = "rope_freqs.weight"
"""What each pair's frequency is divided by: how llama.cpp keeps Llama 3's scaling. Not one of the weights."""


class Metadata:
    """Typed access to the keys of one file; `arch` stands for its architecture, as in `{arch}.block_count`."""

    def __init__(self, source: Path, reader: GGUFReader) -> None:
        self.source = source
        self.reader = reader
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.family: str = self.get("general.architecture")

    def get(self, key: str, default: Any = None, optional: bool = False) -> Any:
        """The value under `key`, else `default`; without one the key must be there, unless `optional`.

        Raises:
            ModelError: it is not.
        """
        key = key.replace("{arch}", getattr(self, "family", ""))
        field = self.reader.get_field(key)
        if field is not None:
            return field.contents()
        if default is None and not optional:
            raise ModelError(f"{self.source}: metadata {key} is missing; fetch a complete GGUF file")
        return default

    def decimal(self, key: str, default: float | None = None, optional: bool = False) -> float | None:
        """A float32 as the shortest decimal of its value: the number that was meant (1e-05, not 9.99999e-06)."""
        value = self.get(key, default, optional)
        return None if value is None else float(str(np.float32(value)))

    def refuse(self, key: str, value: object, served: str) -> ModelError:
        """The error for a value that is not served."""
        key = key.replace("{arch}", self.family)
        return ModelError(f"{self.source}: {key} = {value!r} is not served; choose a model with {served}")


def config_of(metadata: Metadata) -> dict[str, Any]:
    """config.json.

    Raises:
        ModelError: a key is missing, or has a value that is not served.
    """
    if metadata.family not in ARCHITECTURE_OF:
        raise metadata.refuse("general.architecture", metadata.family, " or ".join(ARCHITECTURE_OF))
    parts = metadata.get("split.count", 1)
    if parts > 1:
        raise metadata.refuse("split.count", parts, "all in one file (llama-gguf-split --merge)")
    embedding = metadata.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{metadata.source}: tensor token_embd.weight is missing; fetch a complete GGUF file")
    heads, hidden = metadata.get("{arch}.attention.head_count"), metadata.get("{arch}.embedding_length")
    head_dim = metadata.get("{arch}.attention.key_length", hidden // heads)
    for key in ("{arch}.attention.value_length", "{arch}.rope.dimension_count"):
        if metadata.get(key, head_dim) != head_dim:
            raise metadata.refuse(key, metadata.get(key), f"{head_dim}, the length of its keys")
    length = metadata.get("{arch}.context_length")
    return {
        "num_hidden_layers": metadata.get("{arch}.block_count"),
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get("{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": metadata.get("{arch}.feed_forward_length"),
        "vocab_size": int(embedding.shape[-1]),
        "max_position_embeddings": length,
        "rope_parameters": _rope_parameters(metadata, head_dim, length),
        "rms_norm_eps": metadata.decimal("{arch}.attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in metadata.tensors,
        "attention_bias": "blk.0.attn_q.bias" in metadata.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in metadata.tensors,
        "hidden_act": "silu",
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id", optional=True),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "dtype": "float32",
        **_architecture(metadata),
    }


def end_token_ids(metadata: Metadata) -> list[int]:
    """Ids that end an output: of a text, of a turn, of a message; chat models end with one of the latter."""
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    found = [metadata.get(key, optional=True) for key in keys]
    return list(dict.fromkeys(token_id for token_id in found if token_id is not None))


def _architecture(metadata: Metadata) -> dict[str, Any]:
    """Which class, and its sliding window: every layer of it, if there is one."""
    window = metadata.get("{arch}.attention.sliding_window", 0) or None
    pattern = metadata.get("{arch}.attention.sliding_window_pattern", optional=True)
    if window is not None and pattern is not None:
        raise metadata.refuse("{arch}.attention.sliding_window_pattern", pattern, "one window in all layers")
    # Llama has no window; with one, the same tensors are a Mistral.
    architecture = ARCHITECTURE_OF["mistral" if metadata.family == "llama" and window else metadata.family]
    return {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "sliding_window": window,
        "use_sliding_window": window is not None,
        "max_window_layers": 0,
    }


def _rope_parameters(metadata: Metadata, head_dim: int, length: int) -> dict[str, Any]:
    theta = metadata.decimal("{arch}.rope.freq_base", 10000.0)
    factor = metadata.decimal("{arch}.rope.scaling.factor", metadata.get("{arch}.rope.scale_linear", 1.0)) or 1.0
    kind = metadata.get("{arch}.rope.scaling.type", "linear")  # llama.cpp's default; without a factor it does nothing
    if kind not in SCALINGS:
        raise metadata.refuse("{arch}.rope.scaling.type", kind, " or ".join(SCALINGS))
    if factor == 1.0:
        kind = "none"
    factors = metadata.tensors.get(ROPE_FACTORS)
    if factors is not None:
        if kind != "none" or len(factors.data) != head_dim // 2:
            raise metadata.refuse(ROPE_FACTORS, f"{len(factors.data)} numbers", f"{head_dim // 2} and no other scaling")
        each = [float(number) for number in factors.data]
        # transformers' word for a factor a pair; with one list for short and long sequences it is Llama 3's scaling.
        return {
            "rope_type": "longrope",
            "rope_theta": theta,
            "short_factor": each,
            "long_factor": each,
            "attention_factor": 1.0,
            "original_max_position_embeddings": length,
        }
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    extrapolation = metadata.decimal("{arch}.rope.scaling.yarn_ext_factor", 1.0)
    if extrapolation != 1.0:
        raise metadata.refuse("{arch}.rope.scaling.yarn_ext_factor", extrapolation, "1.0")
    share = metadata.decimal("{arch}.rope.scaling.yarn_log_multiplier", optional=True)
    options = {
        "attention_factor": metadata.decimal("{arch}.rope.scaling.yarn_attn_factor", optional=True),
        "beta_fast": metadata.decimal("{arch}.rope.scaling.yarn_beta_fast", optional=True),
        "beta_slow": metadata.decimal("{arch}.rope.scaling.yarn_beta_slow", optional=True),
        "mscale": 1.0 if share else None,
        "mscale_all_dim": share,
    }
    return {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": metadata.get("{arch}.rope.scaling.original_context_length", length),
        **{key: value for key, value in options.items() if value is not None},
    }
