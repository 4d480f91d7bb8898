"""A .gguf file dequantised once into a Hugging Face folder, kept in a cache."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from services.core.errors import ModelError
from services.engine.checkpoint import Progress, check_folder, fingerprint

if TYPE_CHECKING:
    from gguf import GGUFReader

ARCHITECTURE_OF = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
TENSOR_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Pre-tokenizers of byte-level BPE that are GPT-2's pattern; any other kind goes through transformers, which is slower.
GPT2_PATTERNS = ("gpt-2", "default", "smollm")
CONTROL_TOKEN = 3


def convert_once(source: Path, cache_dir: Path, progress: Progress) -> Path:
    """The converted folder of `source` in `cache_dir`, made now if it is not there.

    Two starters at once are safe: the second waits for the first and uses its result.

    Raises:
        ModelError: the file is damaged, or holds a model that cannot be served.
    """
    name = f"{source.stem.lower()}-{fingerprint(source)}"
    final = cache_dir / name
    if not final.is_dir():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / f".{name}.lock", progress):
            if not final.is_dir():
                _convert_into(source, final, cache_dir / f".{name}.partial", progress)
    check_folder(final)
    progress("the model is converted", 1.0)
    return final.resolve()


def _convert_into(source: Path, final: Path, partial: Path, progress: Progress) -> None:
    """Write everything into `partial`, then rename: a folder under its final name is complete."""
    shutil.rmtree(partial, ignore_errors=True)  # of a starter that was killed; the lock is ours
    partial.mkdir()
    try:
        _convert(source, partial, progress)
        check_folder(partial)
        os.rename(partial, final)
    except OSError as error:
        raise ModelError(f"{final}: cannot be written ({error}); free some disk space or set another cache") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(source: Path, folder: Path, progress: Progress) -> None:
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    progress(f"reading {source.name}", 0.0)
    try:
        reader = GGUFReader(source)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ModelError(f"{source}: not a readable GGUF file ({error}); fetch it again") from error
    config = _config(source, reader)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for done, tensor in enumerate(reader.tensors):
        progress(f"converting {source.name} (once)", 0.3 + 0.5 * done / len(reader.tensors))
        name = hugging_face_name(source, tensor.name)
        try:
            tensors[name] = _dequantised(tensor, name, config)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise ModelError(f"{source}: {tensor.name} is quantised as {kind}, which is not read; use Q8_0") from error
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"eos_token_id": config["eos_token_id"]})
    progress("writing safetensors", 0.8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    progress("writing the tokenizer", 0.95)
    _write_tokenizer(source, reader, folder)


def hugging_face_name(source: Path, name: str) -> str:
    """Hugging Face's name of a GGUF tensor.

    Raises:
        ModelError: a tensor that no served architecture has.
    """
    if name in TENSOR_NAMES:
        return TENSOR_NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise ModelError(f"{source}: tensor {name} belongs to no served architecture; choose a Llama- or Qwen-family model")


def _dequantised(tensor: Any, name: str, config: dict[str, Any]) -> npt.NDArray[np.float32]:
    from gguf import dequantize

    values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    heads = {"q_proj.weight": "num_attention_heads", "k_proj.weight": "num_key_value_heads"}.get(
        name.split("attn.")[-1]
    )
    if heads is None or config["architectures"] != ["LlamaForCausalLM"]:
        return values
    # Llama files keep rotary pairs side by side, Hugging Face keeps them half a head apart.
    rows, columns = values.shape
    pairs = values.reshape(config[heads], rows // config[heads] // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def _config(source: Path, reader: GGUFReader) -> dict[str, Any]:
    """config.json from the file's metadata."""
    family = _field(source, reader, "general.architecture")
    if family not in ARCHITECTURE_OF:
        raise ModelError(f"{source}: architecture {family!r} is not served; choose one of {', '.join(ARCHITECTURE_OF)}")
    names = {tensor.name for tensor in reader.tensors}
    if "rope_freqs.weight" in names or f"{family}.rope.scaling.type" in reader.fields:
        raise ModelError(f"{source}: rotary scaling is not served; choose a model without rope scaling")
    embedding = next((tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None:
        raise ModelError(f"{source}: tensor token_embd.weight is missing; fetch a complete GGUF file")
    heads = _field(source, reader, f"{family}.attention.head_count")
    hidden = _field(source, reader, f"{family}.embedding_length")
    return {
        "architectures": [ARCHITECTURE_OF[family]],
        "model_type": family,
        "num_hidden_layers": _field(source, reader, f"{family}.block_count"),
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": _field(source, reader, f"{family}.attention.head_count_kv", heads),
        "head_dim": _field(source, reader, f"{family}.attention.key_length", hidden // heads),
        "intermediate_size": _field(source, reader, f"{family}.feed_forward_length"),
        "vocab_size": int(embedding.shape[-1]),
        "max_position_embeddings": _field(source, reader, f"{family}.context_length"),
        "rope_theta": _field(source, reader, f"{family}.rope.freq_base", 10000.0),
        # The file keeps float32; its shortest decimal is the number that was meant (1e-05, not 9.99999e-06).
        "rms_norm_eps": float(str(np.float32(_field(source, reader, f"{family}.attention.layer_norm_rms_epsilon")))),
        "tie_word_embeddings": "output.weight" not in names,
        "hidden_act": "silu",
        "bos_token_id": _field(source, reader, "tokenizer.ggml.bos_token_id", optional=True),
        "eos_token_id": _field(source, reader, "tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float32",
    }


def _field(source: Path, reader: GGUFReader, key: str, default: Any = None, optional: bool = False) -> Any:
    """The metadata value under `key`, else `default`; without one the key must be there, unless `optional`."""
    field = reader.get_field(key)
    if field is not None:
        return field.contents()
    if default is None and not optional:
        raise ModelError(f"{source}: metadata {key} is missing; fetch a complete GGUF file")
    return default


def _write_tokenizer(source: Path, reader: GGUFReader, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template."""
    kind = _field(source, reader, "tokenizer.ggml.model"), _field(source, reader, "tokenizer.ggml.pre", "default")
    if kind[0] != "gpt2" or kind[1] not in GPT2_PATTERNS:
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
        return
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = _field(source, reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(source, reader, "tokenizer.ggml.merges")]
    kinds = _field(source, reader, "tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind_of in zip(tokens, kinds, strict=True) if kind_of == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id"}
    known = {name: reader.get_field(f"tokenizer.ggml.{key}") for name, key in special.items()}
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": _field(source, reader, "tokenizer.ggml.add_bos_token", False),
            "clean_up_tokenization_spaces": False,
            "model_max_length": _field(
                source, reader, f"{_field(source, reader, 'general.architecture')}.context_length"
            ),
            **{name: tokens[field.contents()] for name, field in known.items() if field is not None},
            **{"chat_template": _field(source, reader, "tokenizer.chat_template", "")},
        },
    )


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _locked(file: Path, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock of `file`; the kernel lets go of it when the process dies."""
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another start that converts the same model", 0.0)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
