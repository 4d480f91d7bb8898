"""The text of one output as its tokens come: whole characters alone, and an end where a stop string appears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.core.batch import TokenLogprob
from services.core.request import FinishReason
from services.frontdoor.client_stream import Chunk
from services.frontdoor.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """What a chunk means to the client.

    Attributes:
        text: new text; the text of an id may come with a later piece.
        token_ids: new ids; those after a stop string are left out.
        index: place of the first id in the output.
        logprobs: one item for each id, when they were asked for.
        offsets: with logprobs: length of the output's text, in characters, before each id.
        finish: why the output ended, on its last piece.
        stop_text: the stop string that ended it.
        stop_token_id: the id that ended it.
    """

    text: str
    token_ids: tuple[int, ...]
    index: int
    logprobs: tuple[TokenLogprob, ...] = ()
    offsets: tuple[int, ...] = ()
    finish: FinishReason | None = None
    stop_text: str | None = None
    stop_token_id: int | None = None


class OutputText:
    """Makes pieces of one output's chunks.

    Args:
        stops: strings that end the output.
        min_tokens: stop strings are not looked for before this many tokens.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), min_tokens: int = 0) -> None:
        self._detokenizer = tokenizer.detokenizer()
        self._finder = StopFinder(stops) if stops else None
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._num_chars = 0
        self._last_id: int | None = None

    def take(self, chunk: Chunk) -> Piece:
        """The piece that a chunk makes; when it has a `stop_text`, the request need not run on."""
        if self._finder is None and not chunk.logprobs:
            return self._plain(chunk)
        texts: list[str] = []
        offsets: list[int] = []
        for place, token_id in enumerate(chunk.token_ids):
            offsets.append(self._num_chars)
            text = self._detokenizer.push((token_id,))
            self._num_chars += len(text)
            self._num_tokens += 1
            self._last_id = token_id
            texts.append(self._scan(text))
            if self._finder is not None and self._finder.found is not None:
                return Piece(
                    "".join(texts),
                    chunk.token_ids[: place + 1],
                    chunk.index,
                    chunk.logprobs[: place + 1],
                    tuple(offsets) if chunk.logprobs else (),
                    FinishReason.STOP,
                    self._finder.found,
                )
        if chunk.finish is not None:
            texts.append(self._scan(self._detokenizer.flush()))
            texts.append("" if self._finder is None else self._finder.rest())
        return self._piece(chunk, "".join(texts), tuple(offsets) if chunk.logprobs else ())

    def _plain(self, chunk: Chunk) -> Piece:
        text = self._detokenizer.push(chunk.token_ids)
        if chunk.finish is not None:
            text += self._detokenizer.flush()
        if chunk.token_ids:
            self._last_id = chunk.token_ids[-1]
        return self._piece(chunk, text, ())

    def _piece(self, chunk: Chunk, text: str, offsets: tuple[int, ...]) -> Piece:
        ended_by = self._last_id if chunk.finish is FinishReason.STOP else None
        if self._finder is not None and self._finder.found is not None:  # in what the end set free
            return Piece(
                text, chunk.token_ids, chunk.index, chunk.logprobs, offsets, FinishReason.STOP, self._finder.found
            )
        return Piece(text, chunk.token_ids, chunk.index, chunk.logprobs, offsets, chunk.finish, stop_token_id=ended_by)

    def _scan(self, text: str) -> str:
        if self._finder is None or self._num_tokens < self._min_tokens:
            return text
        return self._finder.push(text)


class StopFinder:
    """Looks for strings in a text that comes in pieces; how it is cut changes nothing.

    Of several strings, the one that is complete first ends the text; of those that end together, the longest.

    Attributes:
        found: the string that appeared, or None.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops))
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Take more text; return what can no longer be part of a stop string, or all before the one that appeared."""
        if self.found is not None:
            return ""
        text = self._held + text
        self._held = ""
        ends = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            _, start, self.found = min(ends)
            return text[:start]
        for length in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                self._held = tail
                return text[:-length]
        return text

    def rest(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return "" if self.found is not None else held
