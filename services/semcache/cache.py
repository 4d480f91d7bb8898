"""The cache as the request flow uses it: find, then keep. Pure: time is an argument, vectors come from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from services.core.clock import NS_PER_S
from services.core.seeds import RandomStream
from services.semcache.config import SemcacheConfig
from services.semcache.gate import Answer, Asked, read_refusal, semantic_refusal, write_refusal
from services.semcache.index import CacheIndex, Entry, Vectors
from services.semcache.lexical import Features, difference, features, may_be_judged
from services.semcache.policy import PolicyTable

GATE = "gate_"
"""Before the lexical gate's rule, in reasons."""
UNREAD = "unread"
"""The reason where only the judge, who has not read the question yet, keeps an answer from it."""
VECTOR_BYTES = 2 * 4
"""Of each number of a vector: float32, in arrays that are half full on average."""


@lru_cache(maxsize=1024)
def read(question: str) -> Features:
    """What the lexical gate sees of a question; once for its look and its entry."""
    return features(question)


@lru_cache(maxsize=256)
def compared(question: str, known: Features) -> str:
    """Why a question may not have the answer to one that is kept; a judge's doubts and the look itself ask for it."""
    return difference(read(question), known)


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that may be given.

    Attributes:
        tier: exact or semantic.
        similarity: cosine of the two questions; 1 of equal requests.
    """

    tier: str
    entry_id: str
    answer: Answer
    similarity: float
    age_s: float


@dataclass(frozen=True, slots=True)
class Miss:
    """Nothing that may be given, and why.

    Attributes:
        bypass: whether the cache was not looked at.
    """

    tier: str
    reason: str
    bypass: bool = False


class Shared(Protocol):
    """The tier that front doors share (store.py); never waits."""

    def put(self, entry: Entry, vector: Any) -> None:
        """An entry was kept here."""

    def delete(self, exact: str) -> None:
        """An entry was deleted here, or was said to be wrong."""

    def invalidate(self, scope: bytes | None, category: str = "") -> None:
        """All entries of a scope or a category, or all there are, hold no more."""


class SemanticCache:
    """Both tiers of one front door.

    Args:
        config: categories, limits.
        make_vectors: an empty partition of the semantic tier.
        draws: chooses among which entries one is evicted.

    Attributes:
        policies: what holds by category.
        counts: lookups by (tier, hit | miss | bypass, reason, category).
        skipped: answers that were not kept, by reason.
        rejected: candidates that the lexical gate refused, by rule.
        shared: is told of what changes, for other front doors; None without.
    """

    def __init__(self, config: SemcacheConfig, make_vectors: Callable[[], Vectors], draws: RandomStream) -> None:
        self._config = config
        self.policies = PolicyTable(config)
        self.index = CacheIndex(config, make_vectors, draws)
        self.counts: Counter[tuple[str, str, str, str]] = Counter()
        self.skipped: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.shared: Shared | None = None

    # --- find -------------------------------------------------------------------------------------------------

    def find_equal(self, now: int, asked: Asked) -> Hit | Miss:
        """The exact tier."""
        return self._counted(asked, self._find_equal(now, asked))

    def _find_equal(self, now: int, asked: Asked) -> Hit | Miss:
        refusal = read_refusal(asked)
        if refusal or asked.key is None:
            return Miss("exact", refusal, bypass=True)
        entry = self.index.get(now, asked.key.exact)
        if entry is None:
            return Miss("exact", "absent")
        if not self.holds(now, entry) or age_s(now, entry) > max_age_s(asked):
            return Miss("exact", "age")
        return self._hit(now, "exact", entry, 1.0)

    def find_alike(self, now: int, asked: Asked, vector: Any) -> Hit | Miss:
        """The semantic tier.

        Args:
            vector: of `asked.key.question`, of length 1.
        """
        return self._counted(asked, self._find_alike(now, asked, vector))

    def _find_alike(self, now: int, asked: Asked, vector: Any) -> Hit | Miss:
        refusal = read_refusal(asked)
        if refusal or asked.key is None:
            return Miss("semantic", refusal, bypass=True)
        refusal = semantic_refusal(asked, self._config)
        if refusal or asked.key.question is None:
            return Miss("semantic", refusal, bypass=True)
        reason = "absent"
        for similarity, entry, against in self._near(now, asked, vector):
            if not against:
                return self._hit(now, "semantic", entry, similarity)
            if similarity < least_similarity(asked):
                return Miss("semantic", "similarity" if reason == "absent" else reason)
            if against.startswith(GATE):
                self.rejected[against.removeprefix(GATE)] += 1
            reason = against
        return Miss("semantic", reason)

    def doubts(self, now: int, asked: Asked, vector: Any) -> list[Entry]:
        """Answers that a judge may read a request's question for: those that nothing else keeps from it, the nearest
        first; where there is none, those that only words do.

        None where nobody judges, and none that was read.
        """
        if asked.key is None or asked.key.question is None or asked.judged is None:
            return []
        if read_refusal(asked) or semantic_refusal(asked, self._config):
            return []
        agreed, doubtful = list[Entry](), list[Entry]()
        for similarity, entry, against in self._near(now, asked, vector):
            if not against:
                return []
            assert entry.features is not None, "it has a vector"
            if against == UNREAD:
                agreed.append(entry)
            elif not may_overrule(asked, similarity) or entry.entry_id in asked.judged:
                continue
            elif against.startswith(GATE):
                wanted, rule = read(asked.key.question), against.removeprefix(GATE)
                doubtful += [entry] if may_be_judged(rule, wanted, entry.features) else []
        return (agreed or doubtful)[: self._config.judge.most]

    def _near(self, now: int, asked: Asked, vector: Any) -> Iterator[tuple[float, Entry, str]]:
        """The nearest entries: cosine, entry, and what speaks against it."""
        assert asked.key is not None, "callers have looked"
        for similarity, entry in self.index.nearest(now, asked.key.partition, vector, self._config.candidates):
            assert entry.partition == asked.key.partition and entry.features is not None
            yield similarity, entry, self.against(now, asked, similarity, entry)

    def against(self, now: int, asked: Asked, similarity: float, entry: Entry) -> str:
        """Why a near answer is not given: similarity, age, gate_<rule>, gate_judge or unread; "" for no reason."""
        assert asked.key is not None and asked.key.question is not None and entry.features is not None
        if similarity < max(least_similarity(asked), self.policies.lowered(entry.min_similarity, entry.adaptive)):
            return "similarity"
        if not self.holds(now, entry) or age_s(now, entry) > max_age_s(asked):
            return "age"
        rule = compared(asked.key.question, entry.features)
        if rule and not may_overrule(asked, similarity):
            return f"{GATE}{rule}"
        sure = None if asked.judged is None else asked.judged.get(entry.entry_id)
        vetoes = asked.judged is not None and self._config.judge.veto_below > 0
        if sure is None:
            return f"{GATE}{rule}" if rule else UNREAD if vetoes else ""
        if sure >= (self.policies.sureness(asked.policy.adaptive) if rule else self._config.judge.veto_below):
            return ""
        return f"{GATE}{rule or 'judge'}"

    def holds(self, now: int, entry: Entry) -> bool:
        """By its own TTL, which load prolongs while it lasts, also of what was kept before."""
        return entry.holds(now, self.policies.prolonged(entry.ttl_ns, entry.adaptive))

    def _hit(self, now: int, tier: str, entry: Entry, similarity: float) -> Hit:
        entry.hits += 1
        return Hit(tier, entry.entry_id, entry.answer, similarity, age_s(now, entry))

    def _counted(self, asked: Asked, found: Hit | Miss) -> Hit | Miss:
        if isinstance(found, Hit):
            self.counts[found.tier, "hit", "", asked.policy.category] += 1
        else:
            outcome = "bypass" if found.bypass else "miss"
            self.counts[found.tier, outcome, found.reason, asked.policy.category] += 1
        return found

    # --- keep -------------------------------------------------------------------------------------------------

    def keep(self, now: int, asked: Asked, answer: Answer, vector: Any = None) -> str:
        """Keep an answer; "" or why not.

        Args:
            vector: of the question, where it may be found by its meaning; else None.
        """
        reason = write_refusal(asked, answer, self._config)
        if not reason:
            entry = self._entry(now, asked, answer, vector)
            reason = self.index.refusal(now, entry)
            if not reason:
                self.index.put(now, entry, vector if entry.vector_bytes else None)
                if self.shared is not None:
                    self.shared.put(entry, vector if entry.vector_bytes else None)
        if reason:
            self.skipped[reason] += 1
        return reason

    def _entry(self, now: int, asked: Asked, answer: Answer, vector: Any) -> Entry:
        key = asked.key
        assert key is not None, "write_refusal comes first"
        alike = vector is not None and key.question is not None and not semantic_refusal(asked, self._config)
        wanted_ns = int(min(asked.control.ttl_s, 1e9) * NS_PER_S)
        ttl_ns = min(asked.policy.written_ttl_ns, wanted_ns)
        adaptive = asked.policy.adaptive and wanted_ns >= asked.policy.written_ttl_ns  # a client's limit is one
        return Entry(
            entry_id=self.index.new_id(),
            exact=key.exact,
            partition=key.partition,
            scope=key.scope,
            category=asked.policy.category,
            answer=answer,
            min_similarity=asked.policy.written_similarity,
            adaptive=adaptive,
            ttl_ns=ttl_ns,
            epochs=asked.epochs,
            written_ns=now,
            expires_ns=now + self.policies.most_prolonged(ttl_ns, adaptive),
            features=read(key.question) if alike and key.question is not None else None,
            vector_bytes=VECTOR_BYTES * len(vector) if alike else 0,
        )

    def check(self) -> None:
        """Assert every invariant."""
        self.index.check()


def may_overrule(asked: Asked, similarity: float) -> bool:
    """Whether a judge may overrule the lexical gate; it was not measured at similarities that load lowered."""
    return asked.policy.judged and similarity >= asked.policy.written_similarity


def least_similarity(asked: Asked) -> float:
    """Of its policy and of its client."""
    return max(asked.policy.min_similarity, asked.control.min_similarity)


def age_s(now: int, entry: Entry) -> float:
    """Of an answer, in seconds."""
    return (now - entry.written_ns) / NS_PER_S


def max_age_s(asked: Asked) -> float:
    """A reader's own limit: the policy may have become stricter since the answer was kept."""
    return min(asked.control.max_age_s, asked.policy.ttl_ns / NS_PER_S)
