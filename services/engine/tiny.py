"""A random model of a few layers, with a small real tokenizer: what tests run when the default model is too slow."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from services.engine.hf_config import ARCHITECTURES
from services.engine.model_shape import ModelShape, Rope

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SENTENCES = (
    "The prefill worker computes the keys and values of the whole prompt and the first token of the answer.",
    "The decode worker takes the blocks over, one layer group after another, and computes the remaining tokens.",
    "user system assistant What is the capital of France? The capital of France is Paris. Answer in one sentence.",
    "A request waits in the queue until there is room, then it runs, and when it ends its blocks return to the pool.",
    "Every block has an owner, every lease has an end, and nothing is written for a transfer that does not own it.",
)


def tiny_shape(**overrides: Any) -> ModelShape:
    """Sizes of the tiny model; any field of `ModelShape` can be given."""
    fields: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "num_layers": 2,
        "hidden": 64,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "ffn": 128,
        "vocab": 384,
        "norm_eps": 1e-5,
        "tied": False,
        "max_position": 2048,
        "eos_token_ids": (2,),
        "bos_token_id": 1,
    }
    return ModelShape(**(fields | overrides))


def tiny_model(seed: int = 0, **overrides: Any) -> tuple[ModelShape, dict[str, torch.Tensor]]:
    """A shape and random float32 tensors for it, the same for the same seed."""
    shape = tiny_shape(**overrides)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, size in shape.tensors().items():
        values = torch.randn(size, generator=generator)
        if name.endswith("norm.weight"):
            tensors[name] = 1.0 + 0.1 * values
        else:
            # Wider than a trained model's, so that the next token depends on the whole prompt and not on the last one.
            tensors[name] = values * (0.1 if name.endswith("bias") else 1.5 * size[-1] ** -0.5)
    return shape, tensors


def save_tiny(folder: Path, seed: int = 0, **overrides: Any) -> ModelShape:
    """Write a tiny model as a Hugging Face folder, complete with tokenizer and chat template; returns its shape."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    shape, tensors = tiny_model(seed, **({"vocab": tokenizer.get_vocab_size()} | overrides))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": [shape.architecture],
        "model_type": ARCHITECTURES[shape.architecture],
        "num_hidden_layers": shape.num_layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "rope_parameters": _rope_parameters(shape.rope),
        "rms_norm_eps": shape.norm_eps,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": shape.max_position,
        "attention_bias": shape.qkv_bias,
        "mlp_bias": shape.mlp_bias,
        "sliding_window": shape.window,
        "hidden_act": "silu",
        "bos_token_id": shape.bos_token_id,
        "eos_token_id": list(shape.eos_token_ids),
    }
    if shape.architecture.startswith("Qwen"):
        config["use_sliding_window"] = shape.window is not None
        config["layer_types"] = ["full_attention" if seen is None else "sliding_attention" for seen in shape.windows]
    special = {"bos_token": SPECIAL_TOKENS[1], "eos_token": SPECIAL_TOKENS[2], "chat_template": CHAT_TEMPLATE}
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": list(shape.eos_token_ids)},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **special},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return shape


def _rope_parameters(rope: Rope) -> dict[str, Any]:
    """Under Hugging Face's names."""
    if rope.kind == "default":
        return {"rope_type": "default", "rope_theta": rope.theta}
    renamed = {
        "theta": "rope_theta",
        "kind": "rope_type",
        "original_max_position": "original_max_position_embeddings",
        "pair_factors": "long_factor",
    }
    found = {renamed.get(name, name): value for name, value in asdict(rope).items()}
    return found | {"short_factor": rope.pair_factors}


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE of at most 384 tokens: three special ones, all bytes, and merges of a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer
