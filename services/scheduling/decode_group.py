"""The requests that decode, kept from step to step: what a step says of them is made anew only where it changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.core.batch import Decodes
from services.scheduling.waiting import RequestState


class DecodeGroup:
    """What `Decodes` says of requests that stay together.

    Args:
        states: requests that decode, in their order; whoever joins or leaves makes another group of the others.

    Attributes:
        states: the same; never changed.
    """

    def __init__(self, states: Sequence[RequestState]) -> None:
        self.states = tuple(states)
        self._request_ids = tuple([state.request.request_id for state in self.states])
        self._samples = tuple([state.spec for state in self.states])
        self._tables = tuple([tuple(state.blocks) for state in self.states])
        self._counts_tokens = any(spec.counts_tokens for spec in self._samples)
        self._plain: tuple[int, int] | None = None

    def without_room(self, block_size: int) -> list[int]:
        """Places of those whose next token needs a block more than they have."""
        return [
            place
            for place, state in enumerate(self.states)
            if state.num_computed >= len(self._tables[place]) * block_size
        ]

    def grew(self, places: Iterable[int]) -> None:
        """The requests at these places have other blocks now."""
        tables = list(self._tables)
        for place in places:
            tables[place] = tuple(self.states[place].blocks)
        self._tables = tuple(tables)

    def plain_steps(self, token: int) -> int:
        """Ends of steps to come that bring each request `token` and nothing else to tell: no mark, no end.

        The answer is kept, and counted down from: nothing that it depends on changes in a group.
        """
        if self._plain is None:
            states = self.states
            if any(state.marks or state.num_new_outputs < 2 or token in state.stop_ids for state in states):
                return 0
            left = min([state.max_num_tokens - len(state.tokens) for state in states]) - 1
            self._plain = (left, states[0].num_computed)
        left, since = self._plain
        return left - (self.states[0].num_computed - since)

    def passed(self, count: int, token: int, block_size: int) -> list[int]:
        """`count` steps ended with `token` for everyone; places that need a block more, in the order of their needs.

        A place stands there once for each block.
        """
        needs: list[tuple[int, int]] = []
        tokens = [token] * count
        for place, state in enumerate(self.states):
            room = len(state.blocks) * block_size - state.num_computed
            if room <= count:
                needs += [(step, place) for step in range(room, count + 1, block_size)]
            state.tokens += tokens
            state.num_computed += count
        needs.sort()
        return [place for _, place in needs]

    def check(self, decoding: Sequence[RequestState]) -> None:
        """The group is `decoding`, with the blocks that they have."""
        assert list(self.states) == list(decoding), (self.states, decoding)
        assert self._tables == tuple(tuple(state.blocks) for state in decoding), self._tables

    def decodes(self) -> Decodes:
        """The newest known token of each."""
        states = self.states
        return Decodes(
            self._request_ids,
            tuple([state.tokens[-1] for state in states]),
            tuple([state.num_computed for state in states]),
            self._tables,
            self._samples,
            tuple([state.outputs_for_penalties() for state in states]) if self._counts_tokens else (),
        )
