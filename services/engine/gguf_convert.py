"""A .gguf file dequantised once into a Hugging Face folder, kept in a cache."""

from __future__ import annotations

import fcntl
import functools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.core.errors import ModelError
from services.engine.checkpoint import Progress, check_folder, fingerprint
from services.engine.gguf_config import ROPE_FACTORS, Metadata, config_of, end_token_ids
from services.engine.gguf_tokenizer import write_json, write_tokenizer

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
STORED_FLOATS = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
PIECE_BYTES = 16 * 2**20


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

    progress(f"reading {source.name}", 0.0)
    try:
        metadata = Metadata(source, GGUFReader(source))
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ModelError(f"{source}: not a readable GGUF file ({error}); fetch it again") from error
    config = config_of(metadata)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": end_token_ids(metadata)})
    weights = [_weight(metadata, tensor, config) for tensor in metadata.reader.tensors if tensor.name != ROPE_FACTORS]
    _write_safetensors(folder / "model.safetensors", weights, progress)
    progress("writing the tokenizer", 0.95)
    write_tokenizer(metadata, folder)


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the file to be written.

    Attributes:
        shape: as Hugging Face has it.
        dtype: safetensors' word; a stored float stays what it is, quantised numbers become F32.
        pieces: its bytes in order, made one after another.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[], Iterator[bytes]]

    @property
    def num_bytes(self) -> int:
        """Of all pieces together."""
        return math.prod(self.shape) * (4 if self.dtype == "F32" else 2)


def _write_safetensors(file: Path, weights: list[Weight], progress: Progress) -> None:
    """Header, then one tensor after another: memory for a piece is enough for a model of any size.

    The format is 8 bytes of length, a JSON header padded with blanks, and the data without gaps; wide numbers go first,
    so that each lies at a multiple of its size.
    """
    ordered = sorted(weights, key=lambda weight: weight.dtype != "F32")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for weight in ordered:
        offsets = [total, total + weight.num_bytes]
        header[weight.name] = {"dtype": weight.dtype, "shape": weight.shape, "data_offsets": offsets}
        total += weight.num_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    written = 0
    with file.open("wb") as output:
        output.write(len(text).to_bytes(8, "little") + text)
        for weight in ordered:
            progress("converting the weights (once)", 0.1 + 0.8 * written / total)
            for piece in weight.pieces():
                written += output.write(piece)
    assert written == total, (written, total)


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


def _weight(metadata: Metadata, tensor: Any, config: dict[str, Any]) -> Weight:
    kind = tensor.tensor_type.name
    name = hugging_face_name(metadata.source, tensor.name)
    shape = tuple(int(extent) for extent in reversed(tensor.shape))  # GGUF counts dimensions from the innermost
    order = _row_order(metadata.family, tensor.name, shape[0], config)
    pieces = functools.partial(_pieces, metadata.source, tensor, order)
    return Weight(name, shape, STORED_FLOATS.get(kind, "F32"), pieces)


def _row_order(family: str, name: str, rows: int, config: dict[str, Any]) -> npt.NDArray[np.int64] | None:
    """Where each row of Hugging Face's tensor lies in the file's; None: in its place.

    Files of llama.cpp's architecture "llama" keep the rotary pairs of Q and K side by side, Hugging Face half a head
    apart.
    """
    counts = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    part = name.split(".")[-2]
    if family != "llama" or part not in counts:
        return None
    heads = config[counts[part]]
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).ravel()


def _pieces(source: Path, tensor: Any, order: npt.NDArray[np.int64] | None) -> Iterator[bytes]:
    """The numbers row by row, a few megabytes at a time.

    Raises:
        ModelError: the numbers are of a quantised kind that is not read.
    """
    from gguf import dequantize

    kind, data = tensor.tensor_type, tensor.data
    if kind.name == "BF16":
        data = data.view(np.uint16)
    step = max(1, PIECE_BYTES * len(data) // (4 * int(tensor.n_elements)))
    for start in range(0, len(data), step):
        rows = data[start : start + step] if order is None else data[order[start : start + step]]
        try:
            numbers = rows if kind.name in STORED_FLOATS else dequantize(rows, kind)
        except NotImplementedError as error:
            what = f"{tensor.name} is quantised as {kind.name}"
            raise ModelError(f"{source}: {what}, which is not read; use Q8_0") from error
        yield np.ascontiguousarray(numbers).tobytes()


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
