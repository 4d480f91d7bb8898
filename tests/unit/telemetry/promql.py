"""Evaluates the part of PromQL that our rules use, on series that a test makes up.

Simpler than Prometheus in one thing: `rate` is not extrapolated to the window's ends.
"""

from __future__ import annotations

import operator
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import promql_parser

LOOKBACK_S = 300.0
Labels = tuple[tuple[str, str], ...]
Vector = dict[Labels, float]
Samples = list[tuple[float, float]]
"""(second, value), in order of time."""
OPERATORS: Mapping[str, Callable[[float, float], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq,
}  # fmt: skip
COMPARE = (">", "<", ">=", "<=", "==")


class Evaluator:
    """Series, and rules that are recorded from them.

    Args:
        recorded: PromQL by the name that it is recorded under; evaluated when it is asked for.
    """

    def __init__(self, recorded: Mapping[str, str] | None = None) -> None:
        self._recorded = dict(recorded or {})
        self._series: dict[str, dict[Labels, Samples]] = {}

    def put(self, name: str, samples: Samples, **labels: str) -> None:
        """One series."""
        self._series.setdefault(name, {})[tuple(sorted(labels.items()))] = samples

    def query(self, text: str, at_s: float) -> Vector:
        """The vector at a moment."""
        found = self._value(promql_parser.parse(text), at_s)
        return found if isinstance(found, dict) else {(): found}

    def _value(self, node: Any, at_s: float) -> Vector | float:
        match type(node).__name__:
            case "NumberLiteral":
                return float(node.val)
            case "ParenExpr":
                return self._value(node.expr, at_s)
            case "VectorSelector":
                return self._latest(node, at_s)
            case "AggregateExpr":
                return self._aggregate(node, at_s)
            case "BinaryExpr":
                return self._binary(node, at_s)
            case "Call":
                return self._call(node, at_s)
        raise AssertionError(f"not understood: {node}")

    def _select(self, node: Any, at_s: float) -> dict[Labels, Samples]:
        chosen = {}
        for labels, samples in self._series.get(node.name, {}).items():
            if all(fits(dict(labels).get(each.name, ""), each) for each in node.matchers.matchers):
                end = bisect_right(samples, (at_s, float("inf")))
                chosen[labels] = samples[:end]
        return chosen

    def _latest(self, node: Any, at_s: float) -> Vector:
        at_s -= node.offset.total_seconds() if node.offset else 0.0
        if node.name in self._recorded:
            return self.query(self._recorded[node.name], at_s)
        found = self._select(node, at_s)
        return {labels: each[-1][1] for labels, each in found.items() if each and each[-1][0] > at_s - LOOKBACK_S}

    def _call(self, node: Any, at_s: float) -> Vector | float:
        if node.func.name == "vector":
            value = self._value(node.args[0], at_s)
            assert isinstance(value, float)
            return {(): value}
        if node.func.name == "histogram_quantile":
            share, buckets = (self._value(each, at_s) for each in node.args)
            assert isinstance(share, float)
            assert isinstance(buckets, dict)
            return quantiles(share, buckets)
        assert node.func.name == "rate", node.func.name
        (matrix,) = node.args
        begin = at_s - matrix.range.total_seconds()
        found = self._select(matrix.vector_selector, at_s)
        inside = {labels: [each for each in samples if each[0] >= begin] for labels, samples in found.items()}
        return {labels: rate(samples) for labels, samples in inside.items() if len(samples) > 1}

    def _aggregate(self, node: Any, at_s: float) -> Vector:
        inside = self._value(node.expr, at_s)
        assert isinstance(inside, dict)
        kept = [] if node.modifier is None else node.modifier.labels
        groups: dict[Labels, list[float]] = {}
        for labels, value in inside.items():
            groups.setdefault(tuple(pair for pair in labels if pair[0] in kept), []).append(value)
        how = {"sum": sum, "max": max}[str(node.op)]
        return {labels: float(how(values)) for labels, values in groups.items()}

    def _binary(self, node: Any, at_s: float) -> Vector | float:
        left, right, name = self._value(node.lhs, at_s), self._value(node.rhs, at_s), str(node.op)
        if name in ("and", "or", "unless"):
            assert isinstance(left, dict)
            assert isinstance(right, dict)
            if name == "or":
                return right | left
            return {labels: value for labels, value in left.items() if (labels in right) is (name == "and")}
        if isinstance(left, float) and isinstance(right, float):
            return float(OPERATORS[name](left, right))
        pairs: dict[Labels, tuple[float, float]] = {}
        if isinstance(left, dict):
            for labels, value in left.items():
                other = right if isinstance(right, float) else right.get(labels)
                if other is not None:
                    pairs[labels] = (value, other)
        else:
            assert isinstance(right, dict)
            pairs = {labels: (left, value) for labels, value in right.items()}
        if name in COMPARE:
            return {labels: pair[0] for labels, pair in pairs.items() if OPERATORS[name](*pair)}
        return {labels: OPERATORS[name](*pair) for labels, pair in pairs.items() if name != "/" or pair[1]}


def fits(value: str, matcher: Any) -> bool:
    """Whether a label's value passes a matcher."""
    kind = str(matcher.op).removeprefix("MatchOp.")
    same = re.fullmatch(matcher.value, value) is not None if "Re" in kind else value == matcher.value
    return same is not kind.startswith("Not")


def rate(samples: Samples) -> float:
    """Per second, over restarts of the counter."""
    grown = sum(after - before if after >= before else after for (_, before), (_, after) in pairwise(samples))
    return grown / (samples[-1][0] - samples[0][0])


def quantiles(share: float, buckets: Vector) -> Vector:
    """Linear within the bucket, as Prometheus does; the last finite bound above it."""
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, value in buckets.items():
        bound = float(dict(labels)["le"])
        groups.setdefault(tuple(pair for pair in labels if pair[0] != "le"), []).append((bound, value))
    found = {}
    for labels, pairs in groups.items():
        pairs.sort()
        wanted, low, below = share * pairs[-1][1], 0.0, 0.0
        for bound, count in pairs:
            if count >= wanted and count > below:
                within = 0.0 if bound == float("inf") else (bound - low) * (wanted - below) / (count - below)
                found[labels] = low + within
                break
            low, below = bound, count
    return found
