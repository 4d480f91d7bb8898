"""Words without the endings of plural, progressive and past; rough, and the same for every question."""

from __future__ import annotations

import re

from services.semcache.words import IRREGULAR

PLAIN_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
VOWEL = re.compile(r"[aeiouy]")
SILENT = re.compile(
    r"(?:[^aeiou]at|v|c|iz|ys|u|dg|rg|ang|ag|[^aeo][ui]r|[^e]ar|[^aeiou]in|[^ao]id|[^o]ud|[^oe]ad|[^o]ut|[aiof]us"
    r"|[aio]s|[^eo]ak|[^e]ik|[^o]ok|[^aeo]il|[^aeo]ul|[bcdfgkpstz]l|[^e]am|um|ap|yp)$"
)
"""What a word ends in that lost an e before -ing or -ed: updat, arriv, enabl; not heat, visit, cook."""
DOUBLE = re.compile(r"([bdfgkmnprt])\1$")
SPELLINGS = (
    (re.compile(r"(?<=[^aeiou])our(s?)$"), r"or\1"),  # colour
    (re.compile(r"(?<=met|ent|lit)re(s?)$"), r"er\1"),
    (re.compile(r"^(.{3,})is(e[ds]?|ing|ation)$"), r"\1iz\2"),
)
SPELLED = {
    "metre": "meter", "metres": "meter", "litre": "liter", "litres": "liter", "centre": "center", "centres": "center",
    "kilometre": "kilometer", "kilometres": "kilometer", "centimetre": "centimeter", "centimetres": "centimeter",
    "colour": "color", "colours": "color", "colors": "color", "neighbour": "neighbor", "favourite": "favorite",
    "flavour": "flavor", "aluminium": "aluminum", "grey": "gray", "programme": "program", "theatre": "theater",
    "licence": "license", "km": "kilometer", "kms": "kilometer", "kg": "kilogram", "kgs": "kilogram",
    "kilo": "kilogram", "kilos": "kilogram", "info": "information", "cheque": "check", "tyre": "tire",
}  # fmt: skip
"""Other spellings of one word."""


UNRELATED = frozenset(
    """university universe community commune department apartment information vacation relation nationality
    personality humanity facility quality morale humane rationale artiste envelope corpse clothe breathe climate
    chocolate private separate certificate delegate candidate estimate ultimate intimate pirate senate corporate
    graduate document instrument monument parliament argument""".split()
)
"""Words that only look as if they were derived from another one."""


def stem(word: str) -> str:
    """A word in small letters in its plain form."""
    if not PLAIN_WORD.fullmatch(word):
        return word
    if word in SPELLED or word in IRREGULAR:
        return SPELLED.get(word) or IRREGULAR[word]
    if word.endswith(("ies", "ied")) and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ing", "ed"):
        base = word.removesuffix(ending)
        if base != word and len(base) > 2 and VOWEL.search(base) and not word.endswith("eed"):
            return _restored(base)
    if re.search(r"(?:ss|x|sh|ch|zz)es$", word):
        return word[:-2]
    if word.endswith("s") and len(word) > 3 and word[-2] not in "sui":
        return word[:-1]
    return word


def root(word: str) -> str:
    """What a word in its plain form is derived from, without its last e: validity and valid, agreement and agree."""
    if len(word) < 6 or word in UNRELATED or not PLAIN_WORD.fullmatch(word):
        return word
    for ending in ("ation", "ability", "ibility", "ment", "ity", "ate"):
        base = word.removesuffix(ending)
        if base != word and len(base) > 4:
            return base.removesuffix("e")
    return word.removesuffix("e") if len(word) > 6 else word


def _restored(base: str) -> str:
    """The word that -ing or -ed was put to."""
    if DOUBLE.search(base):
        return base[:-1]
    if base.endswith("ell") and len(base) > 5:  # cancelled
        return base[:-1]
    return base + "e" if SILENT.search(base) else base
