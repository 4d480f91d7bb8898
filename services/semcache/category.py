"""A question's category: the client's hint, else what its structure shows, else what its embedding is near to.

Structure comes before meaning: what is volatile or personal must never be cached, and embeddings do not see it. A
question between two categories has both, and so the stricter policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.semcache.config import OTHER
from services.semcache.exemplars import EXEMPLARS

CODE = re.compile(
    r"```|^#!|^[ \t]*(def|class|import|from|#include|public|function|const|let|var|SELECT|CREATE)\b.*[:;{(]|[{};]\s*$",
    re.MULTILINE,
)
TRANSLATION = re.compile(r"\btranslat\w*\b.*\b(to|into|from)\b|\bhow do (you|i) say\b", re.IGNORECASE | re.DOTALL)
VOLATILE = re.compile(
    r"\b(today|tonight|tomorrow|yesterday|now|latest|current|currently|newest|recent|recently"
    r"|this (week|month|year|morning|weekend|afternoon|evening)|next (week|month|year|\w+day)|weather|forecast"
    r"|stock price|exchange rate|score|news|breaking|live|at the moment)\b",
    re.IGNORECASE,
)
PERSONAL = re.compile(
    r"\b(my|mine|our|ours|myself|me|account|order number|invoice|balance|password)\b"
    r"|\bi (am|was|have|had|bought|ordered|paid|live)\b|\bi'(m|ve)\b|[\w.+-]{1,64}@[\w.-]{1,99}\.\w",
    re.IGNORECASE,
)
MATH = re.compile(
    r"\d\s*[-+*/^=×÷]\s*\(?\s*\d|\b(solve|integral|derivative|equation|sqrt)\b|\d+\s*%\s*of\b", re.IGNORECASE
)
CREATIVE = re.compile(r"\b(poem|haiku|limerick|story|lyrics|song|joke|brainstorm|slogan|screenplay)\b", re.IGNORECASE)
DOCUMENT_CHARS = 1200
"""A question this long brings the text that it is about."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a request without reading for meaning.

    Attributes:
        text: the last user turn; "" without one.
        tools: whether tools are offered or used.
        structured: whether the output must follow a schema.
    """

    text: str
    tools: bool = False
    structured: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A request's categories, most likely first, and what told them: hint, structure, embedding or nothing."""

    categories: tuple[str, ...]
    source: str


def by_structure(shape: Shape) -> str | None:
    """The category that the form of a request shows; None when it shows none. The strictest is looked for first."""
    if shape.tools:
        return "tool"
    # What is asked stands at an end of a long text; looking at more would let a client waste the front door's time.
    long = len(shape.text) > DOCUMENT_CHARS
    text = f"{shape.text[:DOCUMENT_CHARS]}\n{shape.text[-DOCUMENT_CHARS:]}" if long else shape.text
    rules = (
        ("personal", PERSONAL.search(text)),
        ("volatile", VOLATILE.search(text)),
        ("code", CODE.search(text)),
        ("translation", TRANSLATION.search(text)),
        ("document", shape.structured or long),
        ("math", MATH.search(text)),
        ("creative", CREATIVE.search(text)),
    )
    return next((name for name, found in rules if found), None)


def at_once(shape: Shape, hint: str, known: Mapping[str, Any]) -> Found | None:
    """The category that needs no embedding; None when only that can tell.

    Args:
        hint: the client's; "" for none. One that is not known counts as none.
    """
    if hint in known:
        return Found((hint,), "hint")
    found = by_structure(shape)
    return None if found is None else Found((found if found in known else OTHER,), "structure")


def train_head(
    embed: Callable[[str], NDArray[np.float32]], known: Mapping[str, Any], min_margin: float
) -> CategoryHead:
    """The head for our exemplars of the categories there are."""
    examples = {name: np.stack([embed(text) for text in EXEMPLARS[name]]) for name in EXEMPLARS if name in known}
    return CategoryHead(examples, min_margin)


class CategoryHead:
    """Softmax over unit vectors, fitted to a few examples of each category.

    Multinomial logistic regression with ridge on vectors times `SCALE`; each category weighs the same however many
    examples it has. It abstains where it is not sure.

    Args:
        examples: (n, dim) unit vectors by category, in the order that decides ties.
        min_margin: two likeliest categories nearer than this both hold.
    """

    SCALE = 10.0
    RIDGE = 1e-2
    STEPS = 200
    RATE = 0.3
    MAX_ENTROPY = 0.8  # of log(number of categories): above it nothing is known

    def __init__(self, examples: Mapping[str, NDArray[np.float32]], min_margin: float) -> None:
        self._names = tuple(examples)
        self._min_margin = min_margin
        rows = np.concatenate(list(examples.values())).astype(np.float32) * self.SCALE
        labels = np.repeat(np.arange(len(examples)), [len(each) for each in examples.values()])
        balance = (1 / np.bincount(labels) / len(examples)).astype(np.float32)[labels]
        wanted = np.eye(len(examples), dtype=np.float32)[labels]
        self._weights = np.zeros((rows.shape[1], len(examples)), np.float32)
        self._bias = np.zeros(len(examples), np.float32)
        for _ in range(self.STEPS):
            error = (_softmax(rows @ self._weights + self._bias) - wanted) * balance[:, None]
            self._weights -= self.RATE * (rows.T @ error + self.RIDGE * self._weights)
            self._bias -= self.RATE * error.sum(axis=0)

    def classify(self, vector: NDArray[np.float32]) -> Found:
        """The one or two likeliest categories of a unit vector (dim,), or `other`."""
        shares = _softmax((vector * self.SCALE @ self._weights + self._bias)[None, :])[0]
        entropy = -float(np.sum(shares * np.log(np.maximum(shares, 1e-12)))) / np.log(max(len(shares), 2))
        if entropy > self.MAX_ENTROPY:
            return Found((OTHER,), "nothing")
        first, second = self._likeliest(shares)
        if second is not None and shares[first] - shares[second] < self._min_margin:
            return Found((self._names[first], self._names[second]), "embedding")
        return Found((self._names[first],), "embedding")

    def _likeliest(self, shares: NDArray[np.float32]) -> tuple[int, int | None]:
        order: Sequence[int] = np.argsort(-shares, kind="stable").tolist()
        return order[0], order[1] if len(order) > 1 else None


def _softmax(scores: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return shares
