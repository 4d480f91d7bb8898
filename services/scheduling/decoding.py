"""Who decodes on a worker, as requests come and go between its steps, and what a step brings them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from services.core.batch import StepOutput
from services.scheduling.decode_group import DecodeGroup
from services.scheduling.progress import PlainTokens, Sampled
from services.scheduling.waiting import RequestState


class Decoding:
    """The group of the running step, and the changes that the next one finds.

    Attributes:
        group: requests of the running step, or of the last one.
        plain: tokens of the last step that nothing else is to be told of; its other ones were returned.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self.group = DecodeGroup((), block_size)
        self.plain: PlainTokens | None = None
        self._joining: list[RequestState] = []
        self._leaving: list[RequestState] = []
        self._first: list[RequestState] = []  # had no decode step when they were added; some have had one since

    @property
    def changes(self) -> bool:
        """Whether the next step has other decodes than the group."""
        return bool(self._joining or self._leaving)

    def add(self, state: RequestState) -> None:
        """A request decodes from the next step on."""
        self._joining.append(state)
        if state.num_new_outputs == 1 and state not in self._first:
            self._first.append(state)

    def discard(self, state: RequestState) -> None:
        """A request does not decode any more, if it did."""
        if state in self._joining:
            self._joining.remove(state)
        elif state in self.group.states:
            self.group.settle(state)
            self._leaving.append(state)

    def gather(self, running: Sequence[RequestState]) -> DecodeGroup:
        """The group with all changes made.

        Args:
            running: all requests with blocks, in their order.
        """
        if self._joining or self._leaving:
            for state in self._leaving:
                self.group.leave(state)
            for state in self._joining:
                self.group.join(state, running)
            self._joining, self._leaving = [], []
        return self.group

    def gather_anew(self, running: Sequence[RequestState]) -> DecodeGroup:
        """Another group of those of `running` that decode; the old one is settled."""
        self.group = DecodeGroup([state for state in running if state.is_decoding], self._block_size)
        self._joining, self._leaving = [], []
        return self.group

    def complete(self, decodes: Sequence[RequestState], output: StepOutput) -> list[Sampled]:
        """A step of the group ended; its tokens, but for those in `plain`."""
        self.plain = None
        if not decodes:
            return []
        lost = any(state.removed for state in self._leaving)
        token = None if lost else self.group.common(output)
        if token is None:
            return self._write(decodes, output)
        told, others = self.group.step(token)
        self.plain = self.group.plain(others)
        return [(state, token, None) for state in told]

    def _write(self, decodes: Sequence[RequestState], output: StepOutput) -> list[Sampled]:
        self.group.settle_all()
        sampled: list[Sampled] = []
        logprobs = output.logprobs or repeat(None)
        for state, token, logprob in zip(decodes, output.tokens, logprobs, strict=False):  # those of chunks follow
            if not state.removed:
                assert token is not None, state
                # Nothing to publish: all blocks with a hash hold tokens that came with the request.
                state.num_computed += 1
                state.tokens.append(token)
                sampled.append((state, token, logprob))
        self.group.wrote(output.tokens)
        return sampled

    def first_ones(self) -> list[RequestState]:
        """Those that have had no step."""
        waiting = [each for each in self._first if each.num_new_outputs == 1 and not each.removed]
        self._first = waiting
        return [each for each in waiting if each.is_decoding]

    def load(self, running: Sequence[RequestState]) -> tuple[int, int]:
        """How many there are, and tokens whose KV they hold."""
        if self._leaving:
            self.group.settle_all()
            decodes = [state for state in running if state.is_decoding]
            return len(decodes), sum([state.num_computed for state in decodes])
        context = self.group.context + sum([state.num_computed for state in self._joining])
        return len(self.group.states) + len(self._joining), context
