"""A Hugging Face config.json to a `ModelShape`, refusing whatever the engine would compute differently; no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from services.core.errors import ModelError
from services.engine.model_shape import ModelShape, Rope

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""What is served, with its `model_type`."""

ACTIVATIONS = ("silu", "swish")  # two names of one function
ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
LAYER_TYPES = ("full_attention", "sliding_attention")
_QWEN: dict[str, Any] = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
ABSENT: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"bos_token_id": 1, "eos_token_id": 2},
    "MistralForCausalLM": {"bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 8, "sliding_window": 4096},
    "Qwen2ForCausalLM": _QWEN,
    "Qwen3ForCausalLM": {**_QWEN, "head_dim": 128},
}
"""What the transformers library takes for a key that is not there; null is something else: none."""


def shape_of(file: Path, config: dict[str, Any], generation: dict[str, Any]) -> ModelShape:
    """The sizes that `config` (config.json, read from `file`) and `generation` (generation_config.json) describe.

    Raises:
        ModelError: a key is missing or of the wrong kind, or the model needs something this engine does not have; the
            message names the file, the key, its value and what is served.
    """
    try:
        architecture = _architecture(file, config)
        config = {key: value for key, value in (ABSENT[architecture] | config).items() if value is not None}
        _refuse_what_differs(file, config, architecture)
        return _shape(file, architecture, config, generation)
    except KeyError as error:
        raise ModelError(f"{file}: the key {error.args[0]!r} is missing; take the config.json of the model") from error
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"{file}: {error}; take the config.json of the model") from error


def _architecture(file: Path, config: dict[str, Any]) -> str:
    named = (config.get("architectures") or [None])[0]
    if named is None:
        kind = config.get("model_type")
        by_type = {model_type: architecture for architecture, model_type in ARCHITECTURES.items()}
        if kind not in by_type:
            raise _not_served(file, "model_type", kind, tuple(by_type))
        return by_type[kind]
    if named not in ARCHITECTURES:
        raise _not_served(file, "architectures", named, tuple(ARCHITECTURES))
    return str(named)


def _refuse_what_differs(file: Path, config: dict[str, Any], architecture: str) -> None:
    activation = config.get("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        raise _not_served(file, "hidden_act", activation, ACTIVATIONS)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method")
        raise ModelError(
            f"{file}: quantization_config.quant_method = {method!r} is not served; take the model's unquantised "
            "weights, or a .gguf of it"
        )
    for key, owners in {"mlp_bias": ("Llama",), "attention_bias": ("Llama", "Qwen2", "Qwen3")}.items():
        if config.get(key) and not architecture.startswith(owners):
            raise _not_served(file, key, config[key], (False,))


def _shape(file: Path, architecture: str, config: dict[str, Any], generation: dict[str, Any]) -> ModelShape:
    heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // max(heads, 1))
    if heads < 1 or heads % kv_heads or head_dim % 2:
        raise ModelError(
            f"{file}: num_attention_heads = {heads} must be a multiple of num_key_value_heads = {kv_heads}, and "
            f"head_dim = {head_dim} even; take the config.json of the model"
        )
    rope = read_rope(file, config, head_dim)
    # Qwen's models with YaRN keep the length before stretching as their maximum.
    stretched = int(rope.factor * rope.original_max_position) if rope.kind == "yarn" else 0
    max_position = max(int(config["max_position_embeddings"]), stretched)
    window, windowed_layers = _window(file, config, architecture, layers)
    if window is None or window >= max_position:  # a context within the window never feels it
        window, windowed_layers = None, ()
    qwen2, bias = architecture == "Qwen2ForCausalLM", bool(config.get("attention_bias"))
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    bos = config.get("bos_token_id")
    return ModelShape(
        architecture=architecture,
        num_layers=layers,
        hidden=int(config["hidden_size"]),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=int(config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        norm_eps=float(config["rms_norm_eps"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        max_position=max_position,
        eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),),
        bos_token_id=None if bos is None else int(bos),
        rope=rope,
        qkv_bias=qwen2 or bias,
        output_bias=bias and not qwen2,  # Qwen2's biases are fixed, whatever the key says
        mlp_bias=bool(config.get("mlp_bias")),
        qk_norm=architecture == "Qwen3ForCausalLM",
        window=window,
        windowed_layers=windowed_layers,
    )


def _window(file: Path, config: dict[str, Any], architecture: str, layers: int) -> tuple[int | None, tuple[int, ...]]:
    """Keys that a query sees in windowed layers, and which layers those are."""
    if architecture == "LlamaForCausalLM":
        return None, ()
    window = config.get("sliding_window")
    window = None if window is None else int(window)
    if window is not None and window < 1:
        raise ModelError(f"{file}: sliding_window = {window}: give at least 1, or null for none")
    if architecture == "MistralForCausalLM":
        return window, tuple(range(layers))
    if not config.get("use_sliding_window", False):
        window = None
    kinds = config.get("layer_types")
    if kinds is None:
        first = int(config.get("max_window_layers", layers))
        return window, () if window is None else tuple(range(first, layers))
    if len(kinds) != layers or set(kinds) - set(LAYER_TYPES):
        raise ModelError(f"{file}: layer_types = {kinds}: give one of {', '.join(LAYER_TYPES)} for each layer")
    windowed = tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")
    if windowed and window is None:
        raise ModelError(
            f"{file}: layer_types has sliding_attention; give sliding_window and use_sliding_window = true"
        )
    return window, windowed


def read_rope(file: Path, config: dict[str, Any], head_dim: int) -> Rope:
    """The rotary embedding, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    Raises:
        ModelError: a kind that is not served, or frequencies that would change as a sequence grows.
        KeyError: the kind needs a key that is missing.
    """
    where = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    values = config.get(where) or {}
    if any(isinstance(value, dict) for value in values.values()):
        raise ModelError(f"{file}: {where} differs by layer type, which is not served; choose a model with one for all")
    kind = values.get("rope_type", values.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise _not_served(file, f"{where}.rope_type", kind, ROPE_KINDS)
    rotated = values.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if rotated not in (None, 1, 1.0):
        raise _not_served(file, "partial_rotary_factor", rotated, (1.0,))
    theta = values.get("rope_theta")
    theta = float(config.get("rope_theta", 10000.0) if theta is None else theta)
    if kind == "default":
        return Rope(theta)
    if kind == "longrope":
        return _longrope(file, f"{file}: {where}", values, theta, head_dim)
    original = config.get("original_max_position_embeddings") or values.get("original_max_position_embeddings")
    original = int(original or config["max_position_embeddings"])
    factor = values["factor"]
    if factor is None and kind == "yarn":
        factor = config["max_position_embeddings"] / original
    factor = float(factor)
    # Dynamic NTK recomputes all frequencies for each length beyond max_position_embeddings, which cached keys cannot
    # follow. Up to that length they are the default ones, and that is how far such a model is served.
    if kind in ("linear", "dynamic"):
        return Rope(theta, kind, factor)
    if kind == "llama3":
        low, high = float(values["low_freq_factor"]), float(values["high_freq_factor"])
        return Rope(theta, kind, factor, original, low_freq_factor=low, high_freq_factor=high)
    return Rope(
        theta,
        kind,
        factor,
        original,
        attention_factor=_yarn_attention_factor(values, factor),
        beta_fast=float(values.get("beta_fast") or 32.0),
        beta_slow=float(values.get("beta_slow") or 1.0),
        truncate=bool(values.get("truncate", True)),
    )


def _yarn_attention_factor(values: dict[str, Any], factor: float) -> float:
    """0.1 ln(factor) + 1 (Peng et al., 2023, section 3.4), or DeepSeek's quotient of two such numbers."""
    if values.get("attention_factor") is not None:
        return float(values["attention_factor"])

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    over, under = values.get("mscale"), values.get("mscale_all_dim")
    return scale(over) / scale(under) if over and under else scale(1.0)


def _longrope(file: Path, where: str, values: dict[str, Any], theta: float, head_dim: int) -> Rope:
    """A factor for each pair (Ding et al., 2024), served where it is the same for short and long sequences."""
    short, long = values["short_factor"], values["long_factor"]
    if short != long:
        raise ModelError(
            f"{where}: longrope with short_factor other than long_factor is not served: cached keys cannot follow when "
            "a sequence grows from one to the other; choose a model with one set of factors"
        )
    if len(long) != head_dim // 2:
        raise ModelError(f"{where}: {len(long)} longrope factors for heads of {head_dim}; give {head_dim // 2}")
    if values.get("attention_factor") is None:
        raise ModelError(f"{where}: longrope without attention_factor is not served; write it, 1.0 for none")
    factors = tuple(float(factor) for factor in long)
    if min(factors) <= 0:
        raise ModelError(f"{where}: a longrope factor of {min(factors)}; give positive ones")
    return Rope(theta, "longrope", attention_factor=float(values["attention_factor"]), pair_factors=factors)


def _not_served(file: Path, key: str, value: Any, served: tuple[Any, ...]) -> ModelError:
    return ModelError(f"{file}: {key} = {value!r} is not served; choose a model with {' or '.join(map(repr, served))}")
