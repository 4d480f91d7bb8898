"""What an output may go on with, where it must be of a language: a schema's JSON, a regular expression, a grammar.

The language is llguidance's: its Earley parser over lexemes runs beside the output and says of each token of the
vocabulary whether the output, with it, can still become a word of the language (Willard and Louf, "Efficient guided
generation for large language models", 2023, for the idea of masks).

Where a parser stands follows from the output so far alone. Parsers are kept by request only to save time: one whose
tokens are not the beginning of the output is made anew and reads all of it. So whoever has a request's output goes on
with it: the decode worker after the prefill worker, any worker after a preemption, a move, or another one's death.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import llguidance
import numpy as np
import numpy.typing as npt

from services.core.batch import SampleSpec

Mask = npt.NDArray[np.bool_]
K = TypeVar("K")
T = TypeVar("T")
MAX_COMPILED = 64
"""Languages whose compiled form is kept."""
MAX_PARSERS = 512
"""Requests whose parsers are kept, those used last."""


class GrammarError(ValueError):
    """A language, or a vocabulary, that cannot be used; the message says why, without naming a field."""


def read_vocabulary(folder: Path, vocab: int, end_id: int) -> llguidance.LLTokenizer:
    """The tokens of a model folder's tokenizer.json, as bytes in a trie.

    Args:
        vocab: ids that the model has logits for; the file may know more of them, or fewer.
        end_id: stands for the end of an output.

    Raises:
        GrammarError: the file is missing or not understood.
    """
    try:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        try:
            return llguidance.LLTokenizer(text, n_vocab=vocab, eos_token=end_id)
        except ValueError:
            return llguidance.LLTokenizer(text, eos_token=end_id)  # it knows more than the model
    except (OSError, ValueError) as error:
        raise GrammarError(f"the model's tokenizer cannot be read for it ({error})") from error


def check_grammar(grammar: str, vocabulary: llguidance.LLTokenizer | None = None) -> None:
    """Compile a language and throw the result away; milliseconds, for large ones up to a second, without the GIL.

    Args:
        vocabulary: to ask what an output may begin with, too, which is where some languages turn out too large.

    Raises:
        GrammarError: it is not well-formed, has something that is not there, or is too large.
    """
    if vocabulary is None:
        fault = llguidance.LLMatcher.validate_grammar(grammar)
    else:
        matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        fault = matcher.get_error()
    if fault:
        raise GrammarError(one_line(fault))


def one_line(fault: str) -> str:
    """The first lines of a compiler's complaint as one, of bounded length."""
    return " ".join(fault.split())[:400]


class Parser:
    """A parser, and the ids that it has read."""

    def __init__(self, matcher: llguidance.LLMatcher, grammar: str) -> None:
        self._matcher = matcher
        self.grammar = grammar
        self.read: tuple[int, ...] = ()

    def follow(self, outputs: tuple[int, ...]) -> bool:
        """Read what is new of an output; False when what was read is not its beginning.

        Raises:
            GrammarError: the output has left the language.
        """
        known = len(self.read)
        if outputs[:known] != self.read:
            return False
        if len(outputs) > known:
            if not self._matcher.consume_tokens(list(outputs[known:])):
                raise GrammarError(one_line(self._matcher.get_error()) or "the output is not of the language")
            self.read = outputs
        return True

    def mask(self) -> Mask:
        """[vocabulary] bool: the tokens that may come next.

        Raises:
            GrammarError: it takes more than a parser may take.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise GrammarError(one_line(self._matcher.get_error()))
        return np.unpackbits(bits, bitorder="little").view(np.bool_)


class Grammars:
    """The parsers of one model's requests. Used by one thread.

    Args:
        folder: of the model; its tokenizer is read at the first request that needs it.
        vocab: length of a row of logits.
    """

    def __init__(self, folder: Path, vocab: int) -> None:
        self._folder = folder
        self._vocab = vocab
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._parsers: OrderedDict[str, Parser] = OrderedDict()

    def allowed(self, request_id: str, spec: SampleSpec, position: int, outputs: Sequence[int]) -> Mask:
        """[vocab] bool: the tokens that may follow; at least one.

        The ids of `spec.forbidden` may end the output where the language lets it end; before
        `spec.forbidden_before` only where nothing else may follow.

        Args:
            position: of the token that follows.
            outputs: the output so far.

        Raises:
            GrammarError: the language or the vocabulary cannot be used, or the output is not of the language.
        """
        if not spec.forbidden:
            raise GrammarError("the request has no token that could end its output")
        end_id, ends = spec.forbidden[0], list(spec.forbidden)
        if self._vocabulary is None:
            self._vocabulary = read_vocabulary(self._folder, self._vocab, end_id)
        found = self._found(request_id, spec.grammar, tuple(outputs))
        allowed = np.zeros(self._vocab, dtype=np.bool_)
        allowed[: len(found)] = found[: self._vocab]
        may_end = bool(found[self._vocabulary.eos_token])
        allowed[self._vocabulary.eos_token] = False
        if may_end:
            allowed[ends] = True
        if position < spec.forbidden_before:
            longer = allowed.copy()
            longer[ends] = False
            if longer.any():
                return longer
        if not allowed.any():  # no token of this vocabulary goes on: the output ends as it is
            allowed[ends] = True
        return allowed

    def _found(self, request_id: str, grammar: str, outputs: tuple[int, ...]) -> Mask:
        """The parser's mask. Copies share what their lexer found out, which is bounded: one that fails is made anew."""
        try:
            return self._parser(request_id, grammar, outputs).mask()
        except GrammarError:
            self._parsers.pop(request_id, None)
            if self._compiled.pop(grammar, None) is None:
                raise
            return self._parser(request_id, grammar, outputs).mask()

    def _parser(self, request_id: str, grammar: str, outputs: tuple[int, ...]) -> Parser:
        """One that has read all of an output; it is forgotten when it cannot."""
        known = self._parsers.pop(request_id, None)
        if known is None or known.grammar != grammar or not known.follow(outputs):
            known = Parser(self._compile(grammar).deep_copy(), grammar)
            known.follow(outputs)
        keep(self._parsers, request_id, known, MAX_PARSERS)
        return known

    def _compile(self, grammar: str) -> llguidance.LLMatcher:
        """A parser that has read nothing, for others to be copies of."""
        found = self._compiled.pop(grammar, None)
        if found is None:
            assert self._vocabulary is not None
            found = llguidance.LLMatcher(self._vocabulary, grammar, log_level=0)
            if found.is_error():
                raise GrammarError(one_line(found.get_error()))
        keep(self._compiled, grammar, found, MAX_COMPILED)
        return found


def keep(known: OrderedDict[K, T], name: K, value: T, most: int) -> None:
    """Put something last into a table that forgets its first entries above `most`."""
    known[name] = value
    known.move_to_end(name)
    while len(known) > most:
        known.popitem(last=False)
