"""What holds for a request: the strictest of its plausible categories, as generous as the load makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.core.clock import NS_PER_S
from services.semcache.config import OTHER, LoadConfig, Scope, SemcacheConfig

WIDTH = {Scope.KEY: 0, Scope.TENANT: 1, Scope.GLOBAL: 2}


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one request; fields as in `CategoryConfig`, with load taken in.

    Attributes:
        category: the first of the plausible ones: for labels and the quota.
        judged: whether a judge may overrule the lexical gate.
        written_similarity, written_ttl_ns: `min_similarity` and `ttl_ns` without load.
        adaptive: whether load may change them.
    """

    category: str
    exact: bool
    semantic: bool
    first_turn_only: bool
    min_similarity: float
    ttl_ns: int
    max_temperature: float
    scope: Scope
    judged: bool = False
    written_similarity: float = 1.0
    written_ttl_ns: int = 0
    adaptive: bool = False


class PolicyTable:
    """Policies by category, and how far load has changed them.

    Args:
        config: categories and what load may do.
    """

    def __init__(self, config: SemcacheConfig) -> None:
        self._semantic = config.semantic
        self._categories = config.categories
        self._ramp = LoadRamp(config.load)
        self._load = config.load
        self._judge = config.judge

    def knows(self, category: str) -> bool:
        """Whether a hint names a category there is."""
        return category in self._categories

    def observe_load(self, load: float) -> None:
        """The model's load now, as a share of what can be served."""
        self._ramp.observe(load)

    @property
    def ramp(self) -> float:
        """How far load acts, 0..1."""
        return self._ramp.value

    def policy(self, categories: Sequence[str]) -> Policy:
        """The strictest value of each limit over all plausible categories; unknown ones are `other`."""
        found = [self._categories.get(name, self._categories[OTHER]) for name in categories or (OTHER,)]
        return Policy(
            category=categories[0] if categories and categories[0] in self._categories else OTHER,
            exact=all(each.exact for each in found),
            semantic=self._semantic and all(each.semantic for each in found),
            first_turn_only=any(each.first_turn_only for each in found),
            min_similarity=max(self.lowered(each.min_similarity, each.adaptive) for each in found),
            ttl_ns=min(self.prolonged(int(each.ttl_s * NS_PER_S), each.adaptive) for each in found),
            max_temperature=min(each.max_temperature for each in found),
            scope=min((each.scope for each in found), key=WIDTH.__getitem__),
            judged=self._judge.enabled and all(each.judged for each in found),
            written_similarity=max(each.min_similarity for each in found),
            written_ttl_ns=int(min(each.ttl_s for each in found) * NS_PER_S),
            adaptive=all(each.adaptive for each in found),
        )

    def lowered(self, similarity: float, adaptive: bool) -> float:
        """What load makes of a least similarity, of a reader's policy or of an entry.

        max(floor, similarity - drop * ramp); what is below the floor stays where it is (arXiv 2510.26835).
        """
        if not adaptive:
            return similarity
        return min(similarity, max(self._load.similarity_floor, similarity - self._load.similarity_drop * self.ramp))

    def sureness(self, adaptive: bool) -> float:
        """How sure a judge must be, of 0..1."""
        return self._judge.min_sureness - (self._load.sureness_drop * self.ramp if adaptive else 0)

    def prolonged(self, ttl_ns: int, adaptive: bool) -> int:
        """What load makes of a TTL, of a reader's policy or of an entry that was written before.

        min(ceiling, TTL (1 + gain * ramp)); what is above the ceiling stays where it is.
        """
        return self._prolonged(ttl_ns, self.ramp) if adaptive else ttl_ns

    def most_prolonged(self, ttl_ns: int, adaptive: bool) -> int:
        """The most that `prolonged` may become: so long entries are kept."""
        return self._prolonged(ttl_ns, 1.0) if adaptive and self._load.enabled else ttl_ns

    def _prolonged(self, ttl_ns: int, ramp: float) -> int:
        ceiling_ns = max(ttl_ns, int(self._load.ttl_ceiling_s * NS_PER_S))
        return min(ceiling_ns, int(ttl_ns * (1 + self._load.ttl_gain * ramp)))

    def state(self) -> object:
        """How far load acts."""
        return {"ramp": self.ramp}


class LoadRamp:
    """Load to 0..1: 0 up to `low`, 1 from `high` on, straight between; follows a rise at once, a fall only beyond
    `hysteresis`, so that load around one value changes nothing."""

    def __init__(self, config: LoadConfig) -> None:
        self._config = config
        self.value = 0.0

    def observe(self, load: float) -> None:
        """The load now."""
        if self._config.enabled:
            self.value = max(self._at(load), min(self.value, self._at(load + self._config.hysteresis)))

    def _at(self, load: float) -> float:
        return min(max((load - self._config.low) / (self._config.high - self._config.low), 0.0), 1.0)
