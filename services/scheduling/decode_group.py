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
