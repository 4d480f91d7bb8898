"""The sentence that asks, brought to the front of a text, without greetings and thanks.

People say first what has happened and then what they want ("I lost my card. How do I block it?"), put a clause before
their question ("If I move, who pays?") or the question word to its end ("It began in which year?"). What asks stands
first here; the rest follows, so that all of these are compared alike.
"""

from __future__ import annotations

import re

WORDS = "who|whom|whose|when|where|why|how|what|which"
AUXILIARY = (
    "is|are|am|was|were|do|does|did|can|could|will|would|shall|should|may|might|must|has|have (?:i|you|we|they)|had"
)
BEFORE = "in|on|at|by|to|for|from|with|of|until|till|during|within|under|through|after"
COURTESY = re.compile(
    r"^(?:(?:hi|hello|hey|good (?:morning|day|afternoon|evening)|excuse me|pardon me|greetings)"
    r"(?: there| all| team| everyone| everybody)?[,.!:;\s-]+|(?:(?:so|well|ok|okay|sorry|um|uh|oh|(?:a |one |just a )?"
    r"(?:quick |short |small )?question|sorry to bother you)[,.!:;-]+\s*))+",
    re.IGNORECASE,
)
THANKS = re.compile(  # a run of marks is tried from its begin alone, or a long one would take the square of its length
    r"(?:(?<![,.!?\s-])[,.!?\s-]+(?:please|pls|plz|thanks|thank you|thx|cheers|by any chance|if possible|if i may ask"
    r"|if you don't mind|(?:do you know|does anyone know|any ideas?|(?:can|could) you (?:tell me|help(?: me)?))"
    r"(?=\s*\?)|(?:many|much) thanks|thanks (?:so much|very much|a lot|a million|in advance)"
    r"|thank you (?:so much|very much|in advance)))+[.!?\s]*$",
    re.IGNORECASE,
)
ASKS = re.compile(
    rf"(?:and |but |so |then |now )?(?:(?:{BEFORE}) )?(?:{WORDS})\b|(?:and |but |so )?(?:{AUXILIARY})\b", re.IGNORECASE
)
JOINED = re.compile(r"^(?:and|but|so|then|now)\s+(?=\w)", re.IGNORECASE)
CLAUSE = re.compile(r"(?<=[,.;:!?])\s+|\s+[–—-]\s+")
BOTH = re.compile(rf"(?i)^(?:{AUXILIARY})\b(.*?),? and (?:if so,? )?(how|when|where|why)\W*$")
AT_END = re.compile(
    rf"(?i)^(?!(?:{WORDS}|{AUXILIARY}|please|tell|name|list|show|explain|give|describe|say|define|calculate|convert"
    rf"|find|write|translate)\b)([^,.;:!?]+?)\s((?:(?:{BEFORE}) )?(?:how (?:many|much|long|old|far|big|tall)|{WORDS})"
    r"(?: [^\W\d_]+){0,2})\s*\?*$"
)
HELPED = re.compile(rf"(?i)\b(?:{AUXILIARY})\b")
BOUND = re.compile(rf"(?i)(?:{BEFORE})\b")
WHETHER = re.compile(r"(?i)\b(?:know|ask|tell me|wonder(?:ing)?|find out|check|sure|curious|say) (?:if|whether) (.+)$")
TURNED = re.compile(rf"(?i)^(i|we|you|it|they|there|one) ({AUXILIARY})\b")
PRICE = re.compile(r"^how much$")
INDIRECT = re.compile(r"(?i)\b(?:know|wonder|wondering|tell|ask|see|idea|sure|understand|explain|learn|out)\b")


def asked_first(text: str) -> str:
    """The text without courtesies, its question first."""
    text = " ".join(text.split())
    text = COURTESY.sub("", text) or text
    text = THANKS.sub("", text) or text
    whether = WHETHER.search(text)
    if whether is not None:
        clause = whether.group(1)
        turned = TURNED.match(clause)
        text = f"{turned.group(2)} {turned.group(1)}{clause[turned.end() :]}" if turned else f"do {clause}"
    both = BOTH.match(text)
    if both is not None:
        text = f"{both.group(2)} {text[: both.start(2)].rstrip(' ,').removesuffix(' and')}"
    parts = CLAUSE.split(text)
    if len(parts) > 1 and not ASKS.match(parts[0]):
        place = next((at for at in range(len(parts) - 1, 0, -1) if ASKS.match(parts[at])), 0)
        if place:
            asking = JOINED.sub("", " ".join(parts[place:])).rstrip(" ?.!,;:")
            asking = PRICE.sub("what is the price of", _small(asking))
            text = f"{asking} , {_small(' '.join(parts[:place]).rstrip(' ,.;:!?'))}"
    elif (late := AT_END.match(text)) is not None and not INDIRECT.search(late.group(1)):
        helped = " " if HELPED.search(late.group(1)) or BOUND.match(late.group(2)) else " do "
        text = f"{late.group(2)}{helped}{_small(late.group(1))}"
    return text


def _small(text: str) -> str:
    """With a small first letter, unless the first word is written in capitals."""
    return text[0].lower() + text[1:] if text and not text[:2].isupper() else text
