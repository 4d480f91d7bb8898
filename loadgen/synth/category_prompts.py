"""Questions by category as a semantic cache meets them: new ones, the same again, the same in other words, and traps.

A cluster is one question, however it is worded; whoever answers from a cache must stay within the cluster and within
the answer's version. A trap is worded like an earlier question and belongs to another cluster.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from loadgen.synth.lengths import LogNormal
from loadgen.synth.templates import DRAWS, Family, Values
from services.core.errors import ConfigError
from services.core.seeds import derive_seed, numpy_stream, stream
from services.core.workload import WorkloadRow

CHARS_PER_TOKEN = 4
"""Prompts are text, and their tokens depend on the server's tokenizer; rough for English."""


@dataclass(frozen=True, slots=True)
class Category:
    """How one kind of question is asked.

    The defaults below follow what is said of category-aware caching (arXiv 2510.26835): code repeats often and after a
    power law, conversation rarely and uniformly, and answers to news do not last.

    Attributes:
        share: of all requests.
        duplicate_rate: share of requests that ask what was asked before, in the same words or in others.
        paraphrase_share: share of those that are in words not used before, while there are any.
        trap_rate: share of requests that are traps.
        popularity: the n-th question that came up is asked again in proportion to n to the power of minus this;
            0 is uniform.
        validity_s: an answer holds so long; None is for ever.
        output: lengths of answers.
    """

    share: float
    duplicate_rate: float
    paraphrase_share: float
    trap_rate: float
    popularity: float
    output: LogNormal
    validity_s: float | None = None


CATEGORIES: dict[str, Category] = {
    "code": Category(0.25, 0.50, 0.4, 0.10, 1.1, LogNormal(160, 400)),
    "chat": Category(0.30, 0.10, 0.6, 0.10, 0.0, LogNormal(120, 320)),
    "faq": Category(0.15, 0.50, 0.6, 0.10, 0.8, LogNormal(60, 120)),
    "knowledge": Category(0.15, 0.30, 0.6, 0.10, 0.6, LogNormal(40, 120)),
    "news": Category(0.10, 0.40, 0.6, 0.10, 0.9, LogNormal(60, 140), validity_s=60.0),
    "support": Category(0.05, 0.20, 0.6, 0.10, 0.4, LogNormal(100, 240)),
}


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and what is known of it that its server must not see.

    Attributes:
        row: as of any trace; its input tokens are estimated.
        prompt: the text.
        cluster: which question it is, in whatever words.
        kind: new, duplicate, paraphrase or trap.
        of: the row that it repeats, words anew, or looks like; None of new ones.
        trap: what a trap changes: number, unit, entity, direction, negation, antonym, date, language, currency or
            identifier; "" of others.
        version: of the right answer; an answer given at a lower one is stale.
    """

    row: WorkloadRow
    prompt: str
    cluster: str
    kind: str
    of: int | None
    trap: str
    version: int

    def label(self) -> dict[str, Any]:
        """What is written beside the row."""
        return {"cluster": self.cluster, "kind": self.kind, "of": self.of, "trap": self.trap, "version": self.version}


@dataclass(slots=True)
class _Asked:
    """A question that came up: where each of its phrasings was first used."""

    family: Family
    values: Values
    rows: dict[int, int] = field(default_factory=dict)


class _Source:
    """The questions of one category."""

    def __init__(self, name: str, category: Category, families: Iterable[Family], seed: int) -> None:
        self.category = category
        self._name = name
        self._families = [each for each in families if each.category == name]
        self._draws = stream(seed, f"loadgen/synth/category/{name}")
        self._outputs = numpy_stream(seed, f"loadgen/synth/category/{name}/outputs")
        self._seed = seed
        self._asked: list[_Asked] = []
        self._clusters: dict[str, _Asked] = {}
        self._weights: list[float] = []  # cumulative, by order of first appearance

    def ask(self, index: int, at_s: float) -> Question:
        """The request at that place of the trace.

        Raises:
            ConfigError: every question of the category has been asked.
        """
        which = self._draws.random()
        made = None
        if self._asked and which < self.category.duplicate_rate:
            made = self._repeat(index)
        elif self._asked and which < self.category.duplicate_rate + self.category.trap_rate:
            made = self._trap(index)
        asked, phrasing, kind, of, trap = made or self._new(index)
        prompt = asked.family.text(phrasing, asked.values)
        cluster = asked.family.cluster(asked.values)
        tokens = max(1, round(len(prompt) / CHARS_PER_TOKEN))
        row = WorkloadRow(at_s, tokens, max(1, self.category.output.draw(self._outputs)), category=self._name)
        return Question(row, prompt, cluster, kind, of, trap, self._version(cluster, at_s))

    def _version(self, cluster: str, at_s: float) -> int:
        """Which answer holds; clusters change at times of their own."""
        if self.category.validity_s is None:
            return 0
        phase = derive_seed(self._seed, f"loadgen/synth/validity/{cluster}") % 1000 / 1000
        return math.floor(at_s / self.category.validity_s + phase)

    def _popular(self) -> _Asked:
        place = bisect_right(self._weights, self._draws.random() * self._weights[-1])
        return self._asked[min(place, len(self._asked) - 1)]

    def _keep(self, asked: _Asked, phrasing: int, index: int) -> None:
        self._clusters[asked.family.cluster(asked.values)] = asked
        asked.rows[phrasing] = index
        self._asked.append(asked)
        weight = len(self._asked) ** -self.category.popularity
        self._weights.append((self._weights[-1] if self._weights else 0.0) + weight)

    def _repeat(self, index: int) -> tuple[_Asked, int, str, int | None, str]:
        asked = self._popular()
        unused = [each for each in range(len(asked.family.phrasings)) if each not in asked.rows]
        if unused and self._draws.random() < self.category.paraphrase_share:
            first = next(iter(asked.rows.values()))
            phrasing = self._draws.choice(unused)
            asked.rows[phrasing] = index
            return asked, phrasing, "paraphrase", first, ""
        phrasing = self._draws.choice(list(asked.rows))
        return asked, phrasing, "duplicate", asked.rows[phrasing], ""

    def _trap(self, index: int) -> tuple[_Asked, int, str, int | None, str] | None:
        """Changes an earlier question into one that has not come up; None where that is not found."""
        for _ in range(DRAWS):
            base = self._popular()
            changed = base.family.trap(base.values, self._draws)
            if changed is None or base.family.cluster(changed[1]) in self._clusters:
                continue
            phrasing, of = next(iter(base.rows.items()))
            asked = _Asked(base.family, changed[1])
            self._keep(asked, phrasing, index)
            return asked, phrasing, "trap", of, changed[0]
        return None

    def _new(self, index: int) -> tuple[_Asked, int, str, int | None, str]:
        for _ in range(DRAWS * len(self._families)):
            family = self._draws.choice(self._families)
            asked = _Asked(family, family.draw(self._draws))
            if family.cluster(asked.values) not in self._clusters:
                phrasing = self._draws.randrange(len(family.phrasings))
                self._keep(asked, phrasing, index)
                return asked, phrasing, "new", None, ""
        fix = f"{len(self._asked)} questions of {self._name} are all there are; ask for less, or raise --duplicate-rate"
        raise ConfigError("--duration-s", index, fix)


def questions(
    arrivals: Iterable[float], families: tuple[Family, ...], categories: Mapping[str, Category], seed: int
) -> Iterator[Question]:
    """A question for each arrival.

    Categories are drawn by their shares; each has streams of its own, so that its questions do not depend on others.

    Raises:
        ConfigError: shares or rates that cannot be, or a category that has run out of questions.
    """
    check_categories(categories)
    sources = {name: _Source(name, each, families, seed) for name, each in categories.items() if each.share > 0}
    draws = stream(seed, "loadgen/synth/categories")
    names, shares = list(sources), [each.category.share for each in sources.values()]
    for index, at_s in enumerate(arrivals):
        (name,) = draws.choices(names, shares)
        yield sources[name].ask(index, at_s)


def check_categories(categories: Mapping[str, Category]) -> None:
    """Raises ConfigError where rates cannot be."""
    for name, each in categories.items():
        if not 0 <= each.share < math.inf:
            raise ConfigError("--mix", f"{name}={each.share:g}", "must be 0 or above")
        if not 0 <= each.duplicate_rate < 1:
            raise ConfigError("--duplicate-rate", each.duplicate_rate, "must be at least 0 and below 1")
        if not 0 <= each.trap_rate <= 1 - each.duplicate_rate:
            most = 1 - each.duplicate_rate
            fix = f"must be from 0 to {most:g}, for {each.duplicate_rate:g} of {name} are repeats"
            raise ConfigError("--trap-rate", each.trap_rate, fix)
        if each.validity_s is not None and not 0 < each.validity_s < math.inf:
            raise ConfigError("--validity-s", each.validity_s, "must be above 0")
    if not any(each.share > 0 for each in categories.values()):
        raise ConfigError("--mix", "", "gives no category a share above 0")


def parse_mix(text: str, categories: Mapping[str, Category]) -> dict[str, Category]:
    """`code=0.5,chat=0.5`: shares by name; categories that are not named have none.

    Raises:
        ConfigError: a name that is not known, or what is no number.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            raise ConfigError("--mix", part, "write NAME=SHARE, as code=0.5,chat=0.5") from None
        if name.strip() not in categories:
            raise ConfigError("--mix", name, f"is no category; known are {', '.join(categories)}")
    return {name: replace(each, share=shares.get(name, 0.0)) for name, each in categories.items()}
