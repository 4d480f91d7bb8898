"""Safetensors to tensors under Hugging Face's names, memory-mapped."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from services.engine.checkpoint import HEAD, check_folder, weight_files
from services.engine.model_shape import ModelShape
from services.engine.shard import Shard

EMBEDDING = "model.embed_tokens.weight"


def trim_heap() -> None:
    """Give freed memory back to the system, where the C library can: packing leaves holes of its inputs' size."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def load_tensors(folder: Path) -> tuple[ModelShape, dict[str, Tensor]]:
    """The model's shape and all its tensors, in the dtype of the files; pages are read when they are first used.

    The embedding, which is looked up row by row, has a mapping of its own, so that dropping the others really unmaps
    them. Where the head is the same tensor it comes under its own name too: packing it reads all its pages once.

    Raises:
        ModelError: a file, a tensor or a shape is wrong; see `check_folder`.
    """
    shape = check_folder(folder)
    files = weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt") as reader:
            tensors |= {name: reader.get_tensor(name) for name in shape.tensors() if files[name] == file}
    if shape.tied:
        tensors[HEAD] = tensors[EMBEDDING]
    with safe_open(files[EMBEDDING], framework="pt") as reader:
        tensors[EMBEDDING] = reader.get_tensor(EMBEDDING)
    return shape, tensors


def load_shard(folder: Path, shard: Shard) -> tuple[ModelShape, dict[str, Tensor]]:
    """One rank's shape and tensors; of the others' weights nothing is read.

    Raises:
        ModelError: a file, a tensor or a shape is wrong; see `check_folder`.
    """
    shape = check_folder(folder)
    files = weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt") as reader:
            for name in shape.tensors():
                cut = shard.cut(name)
                if files[name] == file and cut is not None:
                    tensors[name] = reader.get_slice(name)[cut] if cut else reader.get_tensor(name)
    if shape.tied and shard.rank == 0:
        tensors[HEAD] = tensors[EMBEDDING]
    with safe_open(files[EMBEDDING], framework="pt") as reader:
        tensors[EMBEDDING] = reader.get_tensor(EMBEDDING)
    return shard.shape(shape), tensors
