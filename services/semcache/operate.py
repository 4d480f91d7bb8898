"""What operators ask of a cache: why a request is answered or not, that answers hold no more, and what there is.

Nothing here counts as a lookup or as a hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.semcache.cache import SemanticCache, age_s, max_age_s
from services.semcache.config import SemcacheConfig
from services.semcache.gate import Asked, read_refusal, semantic_refusal
from services.semcache.index import Entry


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that is near to a request.

    Attributes:
        tier: exact or semantic.
        similarity: cosine of the two questions; 1 of equal requests.
        refused_by: why it is not given: similarity, age, gate_<rule> or unread; "" where nothing speaks against it.
    """

    tier: str
    entry: Entry
    similarity: float
    refused_by: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a cache would do with a request.

    Attributes:
        read_refused: why nothing is looked for, or "".
        semantic_refused: why no question of the same meaning is, or "".
        outcome: hit, miss or bypass.
        candidates: the equal request's answer, if any, then the nearest ones.
    """

    read_refused: str
    semantic_refused: str
    outcome: str
    candidates: tuple[Candidate, ...]


def explain(
    cache: SemanticCache, config: SemcacheConfig, now: int, asked: Asked, vector: Any, most: int
) -> Explanation:
    """What the cache would do now.

    Args:
        vector: of the question, of length 1; None where it has none.
        most: nearest answers that are told.
    """
    refused = read_refusal(asked)
    if refused or asked.key is None:
        return Explanation(refused, "", "bypass", ())
    found: list[Candidate] = []
    equal = cache.index.get(now, asked.key.exact)
    if equal is not None:
        late = not cache.holds(now, equal) or age_s(now, equal) > max_age_s(asked)
        found.append(Candidate("exact", equal, 1.0, "age" if late else ""))
    semantic = semantic_refusal(asked, config)
    if not semantic and vector is not None and asked.key.question is not None:
        for similarity, entry in cache.index.nearest(now, asked.key.partition, vector, max(most, config.candidates)):
            if entry is not equal:
                found.append(Candidate("semantic", entry, similarity, cache.against(now, asked, similarity, entry)))
    # Only so many of the nearest are looked at in earnest; what lies beyond is told, and is no hit.
    looked_at = found[: config.candidates + (equal is not None)]
    hit = any(not each.refused_by for each in looked_at)
    return Explanation("", semantic, "hit" if hit else "miss", tuple(found[:most]))


def invalidate(cache: SemanticCache, scopes: Sequence[bytes] | None, category: str = "", dry_run: bool = False) -> int:
    """Let answers hold no more, here and at every front door that shares them; how many that are here.

    Args:
        scopes: whose; None: everybody's.
        category: of which one alone, where `scopes` is None; "": of any.
        dry_run: count them only.
    """
    count = 0
    for scope in (None,) if scopes is None else scopes:
        count += cache.index.invalidate(scope, dry_run, category)
        if cache.shared is not None and not dry_run:
            cache.shared.invalidate(scope, category)
    return count


def delete(cache: SemanticCache, now: int, exact: str, wrong: bool = False) -> bool:
    """End one answer, here and at every front door that shares it; False when it is not here.

    Args:
        wrong: it is not kept anew before it would have expired.
    """
    entry = cache.index.get(now, exact)
    if cache.shared is not None:
        cache.shared.delete(exact)
    if entry is None:
        return False
    return cache.index.mark_bad(now, entry.entry_id) if wrong else cache.index.delete(entry.entry_id)
