"""What a client wants its output to be, as the grammar that workers follow: compiled here once, and remembered.

A worker compiles it again, for its own vocabulary; what is wrong with it is told here, before anything is placed.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import llguidance
from llguidance.gbnf_to_lark import any_to_lark

from services.core.errors import InvalidRequestError
from services.engine.grammar import GrammarError, check_grammar, keep, read_vocabulary
from services.pb import inference_pb2 as pb
from services.telemetry import metrics
from services.telemetry.exporter import Sample

FIELD = "sampling.structured"
KINDS = ("json_schema", "json_object", "regex", "choice", "grammar")
MAX_BYTES = 64 * 1024
"""Of what a client describes its output with; it travels with the request."""
MAX_PARTS = 1000
"""Rules and groups of a grammar: its compiler goes from each into the next, and its stack ends at about 2500."""
MAX_KNOWN = 256
"""Descriptions, right and wrong ones, whose grammars are kept."""
ANY_OBJECT = '{"type":"object"}'
JSON_OPTIONS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,16}"}
"""Enough for indented JSON; without a bound some models write white space until their output is cut."""
Refusal = Literal["invalid", "too_large", "contradictory", "unsupported"]


class StructuredError(InvalidRequestError):
    """What the output is to be cannot be done.

    Args:
        kind: one of KINDS, or "none" where none is known.
        why: for the metric.
    """

    def __init__(
        self, field: str, message: str, *, kind: str = "none", why: Refusal = "invalid", reason: str | None = None
    ) -> None:
        super().__init__(field, message, reason=reason)
        self.kind, self.why = kind, why


class GrammarChecker:
    """Checks what outputs are to be for one model; safe to use from several threads.

    Args:
        folder: of the model; its tokenizer is read at the first request that needs it. None: there is none to check by.
        vocab: ids that the model has.
        eos_token_ids: ids that end an output.

    Attributes:
        counts: requests by kind and outcome: `accepted`, or why not.
    """

    def __init__(self, folder: Path | None = None, vocab: int = 0, eos_token_ids: tuple[int, ...] = ()) -> None:
        self._folder, self._vocab, self._eos_token_ids = folder, vocab, eos_token_ids
        self._lock = threading.Lock()
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._known: OrderedDict[bytes, str | StructuredError] = OrderedDict()
        self.counts: Counter[tuple[str, str]] = Counter()

    def grammar(self, sampling: pb.Sampling) -> str:
        """The grammar of `SamplingParams`; "" where any text will do. It may take a second, mostly without the GIL.

        Raises:
            StructuredError: what is asked for is wrong, too large, contradictory or not there; `field` is its path.
        """
        if not sampling.HasField("structured"):
            return ""
        try:
            found = self._checked(sampling)
        except StructuredError as error:
            self.count(error)
            raise
        self.counts[str(sampling.structured.WhichOneof("kind")), "accepted"] += 1
        return found

    def count(self, error: StructuredError) -> None:
        """Note a refusal."""
        self.counts[error.kind, error.why] += 1

    def samples(self) -> Iterator[Sample]:
        """Metrics of this moment."""
        for labels, count in list(self.counts.items()):
            yield Sample(metrics.STRUCTURED, labels, count)

    def _checked(self, sampling: pb.Sampling) -> str:
        kind = sampling.structured.WhichOneof("kind")
        if kind is None:
            raise StructuredError(FIELD, f"has no kind that is known here; set one of {', '.join(KINDS)}")
        if sampling.ignore_eos and sampling.stop_token_ids:
            fix = "leave one of them out"
            raise StructuredError(
                "sampling.ignore_eos",
                f"has no meaning together with stop_token_ids where the output is structured; {fix}",
                kind=kind,
                why="contradictory",
            )
        key = sampling.structured.SerializeToString(deterministic=True)
        with self._lock:
            found = self._known.get(key)
        if found is None:
            try:
                found = self._compiled(kind, sampling.structured)
            except StructuredError as error:
                found = error
            with self._lock:
                keep(self._known, key, found, MAX_KNOWN)
        if isinstance(found, StructuredError):
            text = found.message.removeprefix(f"{found.field}: ")
            raise StructuredError(found.field, text, kind=found.kind, why=found.why)
        return found

    def _compiled(self, kind: str, structured: pb.Structured) -> str:
        """A grammar that is known to compile with this model's vocabulary."""
        field = f"{FIELD}.{kind}"
        size = structured.ByteSize()
        if size > MAX_BYTES:
            raise StructuredError(field, f"{size} bytes; at most {MAX_BYTES} are allowed", kind=kind, why="too_large")
        try:
            vocabulary = self._read_vocabulary()
        except GrammarError as error:
            raise StructuredError(field, str(error), kind=kind, why="unsupported") from error
        try:
            grammar = grammar_of(kind, structured)
            check_grammar(grammar, vocabulary)
        except GrammarError as error:
            raise StructuredError(field, f"{error}; correct it", kind=kind) from error
        return grammar

    def _read_vocabulary(self) -> llguidance.LLTokenizer | None:
        """The model's, read once."""
        if self._folder is None:
            return None
        if not self._eos_token_ids:
            raise GrammarError("the model names no token that ends an output, so none could end")
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = read_vocabulary(self._folder, self._vocab, self._eos_token_ids[0])
            return self._vocabulary


def grammar_of(kind: str, structured: pb.Structured) -> str:
    """What a client describes, in llguidance's form.

    Raises:
        GrammarError: it is not well-formed.
    """
    match kind:
        case "json_object":
            if not structured.json_object:
                raise GrammarError("is false; set it to true or leave `structured` out")
            return json_grammar(ANY_OBJECT)
        case "json_schema":
            return json_grammar(structured.json_schema)
        case "choice":
            return llguidance.LLMatcher.grammar_from_regex(choice_regex(list(structured.choice.texts)))
        case "regex":
            return llguidance.LLMatcher.grammar_from_regex(whole_regex(structured.regex))
        case _:
            return lark_grammar(structured.grammar)


def json_grammar(schema: str) -> str:
    """Of JSON values that a schema allows.

    Raises:
        GrammarError: the schema is not a JSON object.
    """
    try:
        found: Any = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise GrammarError(f"a JSON object is needed, found {type(found).__name__}")
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=JSON_OPTIONS)  # type: ignore[arg-type]
    except ValueError as error:  # Python's JSON has more numbers, and nests deeper
        raise GrammarError(f"is not JSON: {error}") from error


def choice_regex(texts: list[str]) -> str:
    """Of one of several texts.

    Raises:
        GrammarError: there is none, or one is empty.
    """
    if not texts or not all(texts):
        raise GrammarError("give one text or more, none of them empty")
    return "|".join("".join(map(escaped, text)) for text in texts)


def escaped(letter: str) -> str:
    """One character of a regular expression that stands for itself."""
    return letter if letter.isascii() and letter.isalnum() else f"\\x{{{ord(letter):X}}}"


def whole_regex(regex: str) -> str:
    """Without the anchors at its ends: a whole output is matched anyhow.

    Raises:
        GrammarError: it is empty.
    """
    if not regex:
        raise GrammarError("is empty")
    regex = regex.removeprefix("^")
    backslashes = len(regex[:-1]) - len(regex[:-1].rstrip("\\"))
    return regex[:-1] if regex.endswith("$") and backslashes % 2 == 0 else regex


def lark_grammar(text: str) -> str:
    """Of a grammar in Lark's notation or in llama.cpp's.

    Raises:
        GrammarError: it is empty, has too many parts, or is not well-formed.
    """
    if not text.strip():
        raise GrammarError("is empty")
    check_parts(text)
    try:
        text = any_to_lark(text)
    except Exception as error:  # it has an exception of its own, and more
        raise GrammarError(f"cannot be read: {str(error)[:200]}") from error
    check_parts(text)
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def check_parts(text: str) -> None:
    """Raises:
    GrammarError: a grammar could be deeper than its compiler's stack.
    """
    parts = sum(map(text.count, ":([{"))
    if parts > MAX_PARTS:
        raise GrammarError(f"{parts} rules, groups and repetitions; at most {MAX_PARTS} are allowed")
