"""Random models made and saved by the transformers library, one for each family and each way of turning positions."""

import warnings
from pathlib import Path
from typing import Any

import torch

from services.core.batch import Row, SampleSpec
from services.engine.input_batch import build
from services.engine.kv_pool import PagedKvPool
from services.engine.model import Model
from services.engine.tiny import train_tokenizer

SIZES = {
    "hidden_size": 72,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    # Wide weights: attention then looks at few places far away, so that a wrong position or window shows.
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 5e5},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
        "rope_theta": 5e5,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1e4},
    "yarn-options": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "rope_theta": 1e6,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "attention_factor": 1.3,
        "truncate": False,
    },
    "yarn-mscale": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "rope_theta": 1e4,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0],
        "long_factor": [1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0],
        "attention_factor": 1.1,
        "original_max_position_embeddings": 64,
        "rope_theta": 1e4,
    },
}
# (family, options of its configuration). 300 tokens are longer than every window and every original context.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-biased": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-one-kv-head": ("Llama", {"num_key_value_heads": 1, "head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 40}),
    "mistral-wide-window": ("Mistral", {"sliding_window": 150}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True, "head_dim": None, "hidden_size": 96}),
    "qwen2-upper-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 130, "max_window_layers": 1}),
    "qwen2-unused-window": ("Qwen2", {"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"attention_bias": True}),
    "qwen3-layer-types": (
        "Qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 50,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}


def save_family(folder: Path, name: str, rope: str = "default", seed: int = 5, **save: Any) -> Any:
    """Write a random model of the transformers library with all its biases and norms random too; returns it.

    Args:
        save: for `save_pretrained`, such as `max_shard_size`.
    """
    family, options = FAMILIES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        tokenizer = train_tokenizer()
        values = {**SIZES, **options, "vocab_size": tokenizer.get_vocab_size(), "rope_parameters": dict(ROPES[rope])}
        if values["head_dim"] is None:
            del values["head_dim"]
        for key in {"short_factor", "long_factor"} & values["rope_parameters"].keys():
            factors, repeats = values["rope_parameters"][key], values.get("head_dim", 16) // 16
            values["rope_parameters"][key] = [factor for factor in factors for _ in range(repeats)]
        config = getattr(transformers, f"{family}Config")(**values)
        torch.manual_seed(seed)
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval().float()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
                elif "embed" in parameter_name and not config.tie_word_embeddings:
                    parameter.mul_(4)
        model.save_pretrained(folder, **save)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def prompt_of(length: int, seed: int = 0) -> tuple[int, ...]:
    """Random ids below 256, the same for the same seed."""
    return tuple(torch.randint(3, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def expected_logits(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """[tokens, vocab] float32 of the transformers library."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(torch.tensor([ids])).logits[0].float()


def logits_at_ends(model: Model, ids: tuple[int, ...], ends: list[int], block_size: int = 16) -> torch.Tensor:
    """Our logits after the tokens up to each of `ends`, each end closing one chunk of one request."""
    shape = model.shape
    num_blocks = -(-len(ids) // block_size) + 1
    pool = PagedKvPool(shape.num_layers, num_blocks, shape.kv_heads, block_size, shape.head_dim, torch.float32)
    table = tuple(reversed(range(num_blocks)))
    found = []
    with torch.inference_mode():
        for start, end in zip([0, *ends], ends, strict=False):
            row = Row("r", ids[start:end], start, table, SampleSpec(0.0, 0))
            found.append(model.forward(build([row], shape, pool), pool)[0])
    return torch.stack(found)
