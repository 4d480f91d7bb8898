"""Writes .gguf files in the layout of llama.cpp's converter: its names, its metadata, its order of Q and K."""

import json
import math
from pathlib import Path

import gguf
import numpy as np
import torch

from services.engine.gguf_convert import LAYER_NAMES
from services.engine.model_shape import ModelShape, Rope
from services.engine.rope import frequencies
from services.engine.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, train_tokenizer

F32 = gguf.GGMLQuantizationType.F32
OURS_TO_GGUF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    **{ours: theirs for theirs, ours in LAYER_NAMES.items()},
}
FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


def write_gguf(
    file: Path,
    shape: ModelShape,
    tensors: dict[str, torch.Tensor],
    family: str = "",
    quantised: gguf.GGMLQuantizationType = F32,
    drop: str = "",
    extra: str = "",
    pre: str = "smollm",
    **keys: bool | int | float | str,
) -> None:
    """Write `tensors` (by Hugging Face's names) and the tiny tokenizer.

    Args:
        family: `general.architecture`; default: what the converter makes of the shape's.
        quantised: kind of the matrices; vectors stay float32.
        drop, extra: name of a tensor to leave out, or to add.
        pre: name of the tokenizer's pattern.
        keys: more metadata, with "__" for "." in the name.
    """
    family = family or FAMILIES[shape.architecture]
    writer = gguf.GGUFWriter(file, family)
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(shape.max_position)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)
    if family == "llama":
        writer.add_rope_dimension_count(shape.head_dim)
    if shape.window is not None:
        writer.add_sliding_window(shape.window)
    _add_rope(writer, shape.rope, shape.head_dim)
    _add_tokenizer(writer, pre, str(keys.pop("tokenizer__ggml__model", "gpt2")))
    for key, value in keys.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[
            type(value)
        ]
        add(key.replace("__", "."), value)
    for name, values in tensors.items():
        rows = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(name.split(".")[-2])
        stored = (side_by_side(values, rows) if rows and family == "llama" else values).numpy()
        kind = quantised if stored.ndim == 2 else F32
        if gguf_name(name) != drop:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(stored, kind), raw_dtype=kind)
    if extra:
        writer.add_tensor(extra, np.zeros(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """GGUF's name of one of our tensors."""
    base, kind = name.rsplit(".", 1)
    if not base.startswith("model.layers."):
        return f"{OURS_TO_GGUF[base]}.{kind}"
    layer, part = base.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{OURS_TO_GGUF[part]}.{kind}"


def side_by_side(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a Q or K projection, or its bias, as files of architecture "llama" keep them."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).transpose(1, 2).reshape(values.shape).contiguous()


def _add_rope(writer: gguf.GGUFWriter, rope: Rope, head_dim: int) -> None:
    writer.add_rope_freq_base(rope.theta)
    if rope.kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.kind))
        writer.add_rope_scaling_factor(rope.factor)
    if rope.kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope.original_max_position)
        if not math.isclose(rope.attention_factor, 0.1 * math.log(rope.factor) + 1):
            writer.add_rope_scaling_yarn_attn_factor(rope.attention_factor)
        if rope.beta_fast != 32:
            writer.add_rope_scaling_yarn_beta_fast(rope.beta_fast)
    if rope.kind == "llama3":
        plain = frequencies(Rope(rope.theta), head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / frequencies(rope, head_dim)).numpy())


def _add_tokenizer(writer: gguf.GGUFWriter, pre: str, kind: str) -> None:
    model = json.loads(train_tokenizer().to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([3 if word in SPECIAL_TOKENS else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
