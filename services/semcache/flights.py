"""Equal requests under way: one of them is computed, the others wait for its answer instead of being computed again."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.semcache.config import SemcacheConfig
from services.semcache.gate import Asked, hopeless, read_refusal, request_refusal

SHARE_OF_WAIT = 0.5
"""Of the time that a request has: who waited in vain must still be computed within the rest."""


def may_share(asked: Asked, config: SemcacheConfig) -> bool:
    """Whether a request may be given the answer of an equal one under way, and others its own."""
    if config.singleflight_wait_s <= 0 or asked.key is None or hopeless(asked):
        return False
    return not read_refusal(asked) and not request_refusal(asked, config)


def longest_wait_s(config: SemcacheConfig, left_s: float, ttft_slo_ms: float | None) -> float:
    """How long a request may wait for an equal one.

    Args:
        left_s: until its deadline.
        ttft_slo_ms: when its client wants the first token; a kept answer comes whole, so waiting is all there is.
    """
    wished_s = left_s if ttft_slo_ms is None else ttft_slo_ms / 1e3
    return max(min(config.singleflight_wait_s, SHARE_OF_WAIT * min(left_s, wished_s)), 0.0)


@dataclass(slots=True)
class _Flight:
    """Equal requests.

    Attributes:
        width: how many of them may be computed at once.
        leaders, waiting: request ids, those that came first in front.
    """

    keys: list[str]
    width: int = 1
    leaders: dict[str, None] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)


class Flights:
    """All equal requests of one front door that are computed, and those that wait for them.

    A leader that ends without an answer makes one that waits the next leader. One whose answer was computed and may
    not be kept makes two, then four: nobody can be given such an answer, and the last of many should not wait for all
    others one after the other.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, _Flight] = {}
        self._by_name: dict[str, _Flight] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def join(self, name: str, key: str) -> bool:
        """Take part; True: it waits, False: it is to be computed."""
        if name in self._by_name:  # the answer of a former request of this id is still to be kept
            return False
        flight = self._by_key.setdefault(key, _Flight([key]))
        waits = len(flight.leaders) >= flight.width
        (flight.waiting if waits else flight.leaders)[name] = None
        self._by_name[name] = flight
        return waits

    def also(self, name: str, key: str) -> None:
        """A request has another key, too: its category is known now. Nothing where that key is taken."""
        flight = self._by_name.get(name)
        if flight is not None and key not in self._by_key:
            self._by_key[key] = flight
            flight.keys.append(key)

    def answered(self, key: str) -> list[str]:
        """An answer to this key is there: those that waited for it, in order. Their flight is over."""
        flight = self._by_key.get(key)
        if flight is None:
            return []
        for name in [*flight.leaders, *flight.waiting]:
            del self._by_name[name]
        for each in flight.keys:
            del self._by_key[each]
        return list(flight.waiting)

    def leave(self, name: str, refused: bool = False) -> list[str]:
        """A request goes its own way, or is over; those that are to be computed in its place.

        Args:
            refused: it was computed whole, and its answer may not be kept.
        """
        flight = self._by_name.pop(name, None)
        if flight is None:
            return []
        flight.leaders.pop(name, None)
        flight.waiting.pop(name, None)
        if refused:
            flight.width *= 2
        promoted = list(flight.waiting)[: max(flight.width - len(flight.leaders), 0)]
        for each in promoted:
            del flight.waiting[each]
            flight.leaders[each] = None
        if not flight.leaders:
            for key in flight.keys:
                del self._by_key[key]
        return promoted

    def check(self) -> None:
        """Whoever waits waits for somebody, and no more are computed at once than may be."""
        assert all(flight.leaders and len(flight.leaders) <= flight.width for flight in self._by_key.values())
        assert all(key in flight.keys for key, flight in self._by_key.items())
        flights = {id(flight): flight for flight in self._by_key.values()}.values()
        named = {name: id(flight) for flight in flights for name in (*flight.leaders, *flight.waiting)}
        assert named == {name: id(flight) for name, flight in self._by_name.items()}
        assert not any(flight.leaders.keys() & flight.waiting.keys() for flight in flights)
