"""The requests that decode, kept from step to step: what a step says of them is made anew only where it changed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import compress
from operator import attrgetter
from typing import TypeVar

from services.core.batch import Decodes, StepOutput
from services.core.output import StepTokens
from services.scheduling.progress import PlainTokens
from services.scheduling.waiting import RequestState

T = TypeVar("T")


class DecodeGroup:
    """What `Decodes` says of requests that stay together.

    Steps that bring everyone the same token are counted and not written into the requests: a simulated model makes
    no others, and a step then costs as much as the requests that begin or end with it. `settle` writes them.

    Args:
        states: requests that decode, in their order.
        block_size: tokens in a block.

    Attributes:
        states: who is in it; another tuple when someone joins or leaves.
        steps: how many it has had; where everyone stands is told relative to it.
    """

    def __init__(self, states: Sequence[RequestState], block_size: int) -> None:
        self.states = tuple(states)
        self.steps = 0
        self._block_size = block_size
        self._request_ids = tuple([state.request.request_id for state in states])
        self._samples = tuple([state.spec for state in states])
        self._tables = [tuple(state.blocks) for state in states]
        self._told_tables: tuple[tuple[int, ...], ...] | None = None  # the same, as long as nobody grew
        self._attempts = tuple([state.request.attempt for state in states])
        self._prompts = [state.num_prompt for state in states]
        self._newest = tuple([state.tokens[-1] for state in states])
        self._offsets = [state.num_computed for state in states]  # computed tokens, less `steps`
        self._ends = [state.max_num_tokens - 1 - state.num_computed for state in states]  # step that brings the last
        self._rooms = [len(state.blocks) * block_size - state.num_computed for state in states]  # that needs a block
        self._first_end = min(self._ends, default=0)
        self._context = sum(self._offsets)
        self._first_room = min(self._rooms, default=0)
        self._fresh = [state for state in states if is_fresh(state)]
        self._token: int | None = None  # of the steps that are not written
        self._know_all()

    def _know_all(self) -> None:
        """What all members say together: one front door and stage or none, ids that end an output."""
        states = self.states
        self._reads_outputs = any(spec.reads_outputs for spec in self._samples)
        homes = dict.fromkeys([(state.stage, state.request.front_door) for state in states])
        self._home = next(iter(homes)) if len(homes) == 1 else None
        self._stops = frozenset().union(*[state.stop_ids for state in states if state.stop_ids])

    # --- who is in it -----------------------------------------------------------------------------------------

    def join(self, state: RequestState, running: Sequence[RequestState]) -> None:
        """One more; its place is that of `running`, where equal orders stand in an order of their own."""
        states, place = self.states, bisect_right(self.states, state.order, key=attrgetter("order"))
        while place and states[place - 1].order == state.order:
            if running.index(states[place - 1]) < running.index(state):
                break
            place -= 1
        self.states = (*states[:place], state, *states[place:])
        self._request_ids = _with(self._request_ids, place, state.request.request_id)
        self._tables.insert(place, tuple(state.blocks))
        self._told_tables = None
        self._attempts = _with(self._attempts, place, state.request.attempt)
        self._prompts.insert(place, state.num_prompt)
        self._newest = _with(self._newest, place, state.tokens[-1])
        self._samples = _with(self._samples, place, state.spec)
        offset = state.num_computed - self.steps
        self._offsets.insert(place, offset)
        self._context += offset
        end = state.max_num_tokens - 1 - offset
        self._ends.insert(place, end)
        if end < self._first_end or not states:
            self._first_end = end
        room = len(state.blocks) * self._block_size - offset
        self._rooms.insert(place, room)
        if room < self._first_room or not states:
            self._first_room = room
        if is_fresh(state):
            self._fresh.append(state)
        if (state.stage, state.request.front_door) != self._home or state.stop_ids or state.spec.reads_outputs:
            self._know_all()

    def leave(self, state: RequestState) -> None:
        """One fewer."""
        place = self.states.index(state)
        self.states = _without(self.states, place)
        self._request_ids = _without(self._request_ids, place)
        self._told_tables = None
        self._attempts = _without(self._attempts, place)
        self._newest = _without(self._newest, place)
        self._samples = _without(self._samples, place)
        self._context -= self._offsets.pop(place)
        del self._ends[place], self._rooms[place], self._tables[place], self._prompts[place]
        self._first_room, self._first_end = min(self._rooms, default=0), min(self._ends, default=0)
        if state in self._fresh:
            self._fresh.remove(state)
        if self._home is None or self._stops or self._reads_outputs or not self.states:
            self._know_all()

    # --- blocks -----------------------------------------------------------------------------------------------

    def without_room(self) -> list[int]:
        """Places of those whose next token needs a block more than they have."""
        steps = self.steps
        if self._first_room > steps:
            return []
        return [place for place, room in enumerate(self._rooms) if room <= steps]

    def grew(self, places: Iterable[int]) -> None:
        """The requests at these places have other blocks now."""
        for place in places:
            table = self._tables[place] = tuple(self.states[place].blocks)
            self._rooms[place] = len(table) * self._block_size - self._offsets[place]
        self._told_tables = None
        self._first_room = min(self._rooms)

    # --- steps ------------------------------------------------------------------------------------------------

    @property
    def context(self) -> int:
        """Tokens whose KV its requests hold."""
        return self._context + len(self.states) * self.steps

    def plain_steps(self, token: int) -> int:
        """Ends of steps to come that bring each request `token` and nothing else to tell: no mark, no end."""
        if self._fresh or not self.states or self.common_token(token) is None:
            return 0
        return self._first_end - self.steps - 1

    def common_token(self, token: int) -> int | None:
        """The token, unless one that all get has to be looked at request by request."""
        return None if self._home is None or self._reads_outputs or token in self._stops else token

    def common(self, output: StepOutput) -> int | None:
        """The token that a step brings all of them, where that is all it brings; None: look at each."""
        tokens, count = output.tokens, len(self.states)
        if output.logprobs or output.logits_digests or not count or tokens[0] is None:
            return None
        alike = tokens.count(tokens[0]) == len(tokens) or tokens[:count].count(tokens[0]) == count
        return self.common_token(tokens[0]) if alike else None

    def passed(self, count: int, token: int) -> list[int]:
        """`count` steps ended with `token` for everyone; places that need a block more, in the order of their needs.

        A place stands there once for each block.
        """
        self._count(count, token)
        steps, size = self.steps, self._block_size
        if self._first_room > steps:
            return []
        needs = [
            (step, place)
            for place, room in enumerate(self._rooms)
            if room <= steps
            for step in range(room, steps + 1, size)
        ]
        needs.sort()
        return [place for _, place in needs]

    def step(self, token: int) -> tuple[list[RequestState], StepTokens | None]:
        """One step ended with `token` for everyone: requests that have more to tell of it, and the tokens of others."""
        self._count(1, token)
        steps, states = self.steps, self.states
        told = [states.index(state) for state in self._fresh]
        if self._first_end <= steps:
            told = sorted({*told, *[place for place, end in enumerate(self._ends) if end <= steps]})
        elif len(told) > 1:
            told.sort()
        self._fresh.clear()
        for place in told:
            self.settle(states[place], place)
        return [states[place] for place in told], self._tokens_of_others(told, token)

    def _tokens_of_others(self, told: Sequence[int], token: int) -> StepTokens | None:
        steps, count = self.steps, len(self.states) - len(told)
        if not count:
            return None
        indices = tuple([offset + steps - prompt for offset, prompt in zip(self._offsets, self._prompts, strict=True)])
        if not told:
            return StepTokens(self._request_ids, self._attempts, indices, (token,) * count)
        others = bytearray(b"\x01") * len(self.states)
        for place in told:
            others[place] = 0
        ids, attempts = tuple(compress(self._request_ids, others)), tuple(compress(self._attempts, others))
        return StepTokens(ids, attempts, tuple(compress(indices, others)), (token,) * count)

    def plain(self, tokens: StepTokens | None) -> PlainTokens | None:
        """Tokens that nothing else is to be told of, and whose they are."""
        return None if tokens is None or self._home is None else (*self._home, tokens)

    def wrote(self, tokens: Sequence[int | None]) -> None:
        """One step ended whose tokens were written into the requests."""
        self.steps += 1
        self._newest = tuple(tokens[: len(self.states)])  # type: ignore[arg-type]
        self._fresh.clear()

    def _count(self, count: int, token: int) -> None:
        if self._token != token:
            self.settle_all()
            self._token = token
        self._newest = (token,) * len(self.states)
        self.steps += count

    def settle(self, state: RequestState, place: int | None = None) -> None:
        """Write the tokens of one request that were only counted."""
        if self._token is None:
            return
        place = self.states.index(state) if place is None else place
        count = self._offsets[place] + self.steps - state.num_computed
        if count:
            state.tokens += [self._token] * count
            state.num_computed += count

    def settle_all(self) -> None:
        """The same for all."""
        if self._token is None:
            return
        for place, state in enumerate(self.states):
            self.settle(state, place)
        self._token = None

    def check(self, decoding: Sequence[RequestState]) -> None:
        """The group is `decoding`, with the blocks that they have."""
        self.settle_all()
        assert list(self.states) == list(decoding), (self.states, decoding)
        assert self._tables == [tuple(state.blocks) for state in decoding], self._tables
        fresh = DecodeGroup(decoding, self._block_size)
        assert self.decodes() == fresh.decodes(), (self.decodes(), fresh.decodes())
        for mine, made in ((self._ends, fresh._ends), (self._rooms, fresh._rooms)):
            assert [each - self.steps for each in mine] == made, (mine, made, self.steps)
        assert self.context == fresh.context
        assert (self._first_room, self._first_end) == (min(self._rooms, default=0), min(self._ends, default=0))
        assert (self._home, self._stops, self._reads_outputs) == (fresh._home, fresh._stops, fresh._reads_outputs)
        assert set(map(id, fresh._fresh)) <= set(map(id, self._fresh)), (self._fresh, fresh._fresh)

    def decodes(self) -> Decodes:
        """The newest known token of each."""
        steps = self.steps
        if self._told_tables is None:
            self._told_tables = tuple(self._tables)
        return Decodes(
            self._request_ids,
            self._newest,
            tuple([offset + steps for offset in self._offsets]),
            self._told_tables,
            self._samples,
            tuple([state.outputs_for_sampling() for state in self.states]) if self._reads_outputs else (),
        )


def is_fresh(state: RequestState) -> bool:
    """Whether the next token of a decode comes with more to tell than itself."""
    return bool(state.marks or state.digests) or state.num_new_outputs < 2


def _with(items: tuple[T, ...], place: int, item: T) -> tuple[T, ...]:
    return (*items[:place], item, *items[place:])


def _without(items: tuple[T, ...], place: int) -> tuple[T, ...]:
    return items[:place] + items[place + 1 :]
