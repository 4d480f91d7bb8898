"""Puts one request's outputs in order: several workers send them, the client sees every token index exactly once."""

from __future__ import annotations

from services.core.actions import RequestOutput
from services.core.batch import TokenLogprob
from services.core.request import FinishReason

GOOD_ENDS = (FinishReason.STOP, FinishReason.LENGTH)


class TokenStream:
    """Orders outputs by index, drops what is old or known, and holds back what comes after a gap.

    A higher attempt replaces a lower one: what the lower one sent ahead of a gap is forgotten, what was already passed
    on stays. A good end waits until every token before it came; a bad one ends the stream at once.

    Attributes:
        attempt: the highest attempt seen.
        next_index: index of the token that is to be passed on next, so also the number passed on.
        cached_tokens: prompt tokens found in the prefix cache, as the current attempt's first output said.
        end: the output that ended the stream, or None while it runs; nothing is taken after it.
    """

    def __init__(self) -> None:
        self.attempt = 0
        self.next_index = 0
        self.cached_tokens = 0
        self.end: RequestOutput | None = None
        self._early: dict[int, int] = {}  # token id by index, all above next_index
        self._early_logprobs: dict[int, TokenLogprob] = {}
        self._logprobs: list[TokenLogprob] = []
        self._prompt_logprobs: tuple[TokenLogprob, ...] = ()
        self._good_end: RequestOutput | None = None

    def push(self, output: RequestOutput) -> tuple[int, ...]:
        """Take one output; return the token ids, from the former `next_index` on, that may be passed on now."""
        if self.end is not None or output.attempt < self.attempt:
            return ()
        if output.attempt > self.attempt:
            self.attempt = output.attempt
            self._early.clear()
            self._early_logprobs.clear()
            self._good_end = None
        if output.index == 0 and output.token_ids:
            self.cached_tokens = output.cached_tokens
            if self.next_index == 0:
                self._prompt_logprobs = output.prompt_logprobs
        if output.index == self.next_index and not self._early:  # as nearly always
            ready = output.token_ids
            self.next_index += len(ready)
            self._logprobs += output.logprobs
        else:
            ready = self._out_of_order(output)
        self._look_for_end(output)
        return ready

    def _out_of_order(self, output: RequestOutput) -> tuple[int, ...]:
        """Keep what comes early, drop what is known; what may be passed on now."""
        for place, token_id in enumerate(output.token_ids):
            index = output.index + place
            if index >= self.next_index and index not in self._early:
                self._early[index] = token_id
                if output.logprobs:
                    self._early_logprobs[index] = output.logprobs[place]
        ready = []
        while self.next_index in self._early:
            ready.append(self._early.pop(self.next_index))
            if self.next_index in self._early_logprobs:
                self._logprobs.append(self._early_logprobs.pop(self.next_index))
            self.next_index += 1
        return tuple(ready)

    def take_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of the tokens passed on since the last call, when the request asked for them."""
        taken, self._logprobs = tuple(self._logprobs), []
        return taken

    def take_prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        """What came with the first token; nothing the second time."""
        if self.next_index == 0:
            return ()
        taken, self._prompt_logprobs = self._prompt_logprobs, ()
        return taken

    def gap(self) -> range:
        """Indices that are missing while later ones, or the end, are there; empty when there is no gap."""
        if self.end is not None:
            return range(0)
        above = min(self._early, default=None)
        if above is None and self._good_end is not None:
            above = end_index(self._good_end)
        return range(0) if above is None else range(self.next_index, above)

    def _look_for_end(self, output: RequestOutput) -> None:
        if output.finish in GOOD_ENDS:
            self._good_end = output
        elif output.finish is not None:
            self.end = output
            return
        if self._good_end is not None and self.next_index >= end_index(self._good_end):
            self.end = self._good_end


def end_index(output: RequestOutput) -> int:
    """Index after the last token of an output."""
    return output.index + len(output.token_ids)
