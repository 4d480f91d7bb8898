"""Questions with slots: phrasings that ask the same, and changes of a slot that ask something else.

They are in three files. Half A may be read by whoever writes a semantic cache's gate; half B is held out and only
measures. They have no template and no entry of a list in common. C is held out, too: its author knew nothing of the
gate, nor of what it was made with. Faults that first runs of B and C showed were mended (LOG.md, 2026-11-22).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.core.errors import ConfigError
from services.core.seeds import RandomStream

HALVES = ("a", "b", "c")
FOLDER = Path(__file__).parents[1] / "samples"
DRAWS = 20
"""How often a value that must be another one is drawn before it is given up."""

Values = dict[str, str]
"""A value for each slot of a family."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What may stand in a place; one of the three.

    Attributes:
        words: any of these.
        pairs: either side of any of these; a trap takes the other side.
        numbers: from the first to the last of two.
    """

    words: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    numbers: tuple[int, int] | None = None

    def draw(self, draws: RandomStream) -> str:
        """Any value."""
        if self.numbers is not None:
            return str(draws.randint(*self.numbers))
        return draws.choice(draws.choice(self.pairs) if self.pairs else self.words)

    def other(self, value: str, draws: RandomStream) -> str:
        """Another value, as near as can be: the other side of a pair, or a number beside it."""
        for one, two in self.pairs:
            if value in (one, two):
                return two if value == one else one
        if self.numbers is not None:
            low, high = self.numbers
            near = [each for each in range(int(value) - 3, int(value) + 4) if low <= each <= high]
            return draws.choice([str(each) for each in near if str(each) != value])
        return draws.choice([each for each in self.words if each != value])


@dataclass(frozen=True, slots=True)
class Family:
    """One question in several words.

    Attributes:
        category, name: unique together in a half.
        phrasings: each asks the same of the same slots.
        slots: by name, in the order that names a cluster.
        traps: which slots to change, and what kind of change that is; two slots are swapped.
    """

    category: str
    name: str
    phrasings: tuple[str, ...]
    slots: Mapping[str, Slot]
    traps: tuple[tuple[tuple[str, ...], str], ...]

    def draw(self, draws: RandomStream) -> Values:
        """A value for each slot; slots that take from the same list get different ones."""
        found: Values = {}
        for name, slot in self.slots.items():
            taken = {found[other] for other in found if self.slots[other] == slot}
            value = slot.draw(draws)
            while value in taken:
                value = slot.draw(draws)
            found[name] = value
        return found

    def trap(self, values: Values, draws: RandomStream) -> tuple[str, Values] | None:
        """The kind of a change and the values after it; None where the change gives two slots the same value."""
        changed, kind = draws.choice(self.traps)
        if len(changed) == 2:
            one, two = changed
            return kind, values | {one: values[two], two: values[one]}
        (name,) = changed
        value = self.slots[name].other(values[name], draws)
        twins = [other for other in values if other != name and self.slots[other] == self.slots[name]]
        return None if any(values[other] == value for other in twins) else (kind, values | {name: value})

    def text(self, phrasing: int, values: Values) -> str:
        """The question in one of its phrasings; its first letter is a capital."""
        found = self.phrasings[phrasing].format_map(values)
        return found[0].upper() + found[1:]

    def cluster(self, values: Values) -> str:
        """Names the question, whatever its words."""
        return "/".join((self.category, self.name, *(values[name] for name in self.slots)))


def load_half(half: str) -> tuple[Family, ...]:
    """The families of a half.

    Raises:
        ConfigError: there is no such half.
    """
    if half not in HALVES:
        raise ConfigError("--half", half, "must be a, b or c; b and c are held out for measuring")
    document = json.loads((FOLDER / f"category_prompts_{half}.json").read_text(encoding="utf-8"))
    return tuple(_family(document, each) for each in document["families"])


def _family(document: Mapping[str, Any], found: Mapping[str, Any]) -> Family:
    return Family(
        found["category"],
        found["name"],
        tuple(found["phrasings"]),
        {name: _slot(document, source) for name, source in found["slots"].items()},
        tuple((tuple(slots.split("+")), kind) for slots, kind in found["traps"].items()),
    )


def _slot(document: Mapping[str, Any], source: str) -> Slot:
    low, dots, high = source.partition("..")
    if dots:
        return Slot(numbers=(int(low), int(high)))
    if source in document["pairs"]:
        return Slot(pairs=tuple((one, two) for one, two in document["pairs"][source]))
    return Slot(words=tuple(document["lists"][source]))
