"""The lexical gate: may two questions that an embedding finds alike have the same answer?

An embedding hardly sees a number, a name or a "not": such pairs reach a cosine of 0.99, where true paraphrases begin at
0.70. So similarity alone never accepts. Here the words decide: all that carries meaning must be in both questions, in
the same order; only words that never decide an answer may differ. What is not known counts as meaning, so an unknown
word costs a hit and never gives a wrong one.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from services.semcache import words

NOT = "<not>"
"""Stands for every negation."""

QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"|“[^”]*”|«[^»]*»|(?<!\w)'[^']*'(?!\w)|https?://\S+")
TOKEN = re.compile(r"\d+(?:[.,:/-]\d+)*%?|[^\W\d_]+(?:[-'’][^\W\d_]+)*|\w+|[^\w\s]")
CONTRACTIONS = re.compile(r"(?i)(\w)n['’]t\b|\b(can)not\b")
FRONTED = re.compile(r"(?:in|on|at|within|for|with|using|during|from|by|to)\b[^,?!.;]*,", re.IGNORECASE)
PUNCTUATION = frozenset(".,;:!?()[]{}…-–—'\"’‘“”")
PLAIN_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")


@dataclass(frozen=True, slots=True)
class Features:
    """What the gate looks at; enough to judge a question without its text.

    Attributes:
        kind: what is asked for: what, who, when, where, why, how, `how <word>`, yes-no, or an order.
        content: everything that may decide the answer, in the order of the text.
        quoted: quotations, identifiers in backticks and addresses, as they are.
        time, modal: of the first auxiliary and the first modal verb; "none" without.
        bound: (word, preposition) for each word behind one, by what it binds as.
    """

    kind: str
    content: tuple[str, ...]
    quoted: tuple[str, ...]
    time: str
    modal: str
    bound: tuple[tuple[str, str], ...]


def features(text: str) -> Features:
    """What the gate looks at in a question."""
    quoted = tuple(found.group(0).strip("`\"“”«»'") for found in QUOTED.finditer(text))
    plain = CONTRACTIONS.sub(lambda found: f"{found.group(1) or found.group(2)} not", QUOTED.sub(' " ', text))
    # "In Python, how ..." and "How ... in Python?" bind alike: a fronted phrase moves to the end.
    fronted = FRONTED.match(plain.lstrip())
    if fronted is not None:
        rest = plain.lstrip()
        plain = f"{rest[fronted.end() :].rstrip(' ?.!')} {fronted.group(0)[:-1]}"
    tokens = _normal(TOKEN.findall(plain))
    kind, after = _kind(tokens)
    content, bound = _content(tokens, after)
    time = next((words.TIMES[token] for token in tokens if token in words.TIMES), "none")
    modal = next((words.MODALS[token] for token in tokens if token in words.MODALS), "none")
    return Features(kind, content, quoted, time, modal, bound)


def difference(asked: Features, known: Features) -> str:
    """Why two questions may not have the same answer; "" when nothing is found.

    The reasons are labels: empty, quoted, kind, time, modal, negation, number, words, order, direction.
    """
    if not (asked.content or asked.quoted):
        return "empty"
    if asked.quoted != known.quoted:
        return "quoted"
    if asked.kind != known.kind:
        return "kind"
    if asked.time != known.time and tuple(sorted((asked.time, known.time))) not in words.SAME_TIME:
        return "time"
    if asked.modal != known.modal and (asked.kind == "yes-no" or "none" not in (asked.modal, known.modal)):
        return "modal"
    ours, theirs = Counter(asked.content), Counter(known.content)
    if (ours[NOT] - theirs[NOT]) % 2:
        return "negation"
    more, less = ours - theirs, theirs - ours
    if any(any(letter.isdigit() for letter in word) for word in [*more, *less]):
        return "number"
    if (more and less) or any(word not in OPTIONAL for word in [*more, *less]):
        return "words"
    extra = {*more, *less}
    # One optional word may stand elsewhere, as in "which city is the capital"; two could have changed places.
    movable = [set[str](), *({word} for word in OPTIONAL & ours.keys() & theirs.keys())]
    same = any(_without(asked, extra | each) == _without(known, extra | each) for each in movable)
    if not same:
        return "order"
    return "direction" if _turned(dict(asked.bound), dict(known.bound)) else ""


def _turned(ours: dict[str, str], theirs: dict[str, str]) -> bool:
    """Whether words have changed roles: "to Rome from Oslo", "the effect of heat on ice" and "on heat of ice"."""
    changed = [(ours[word], theirs[word]) for word in ours if word in theirs and ours[word] != theirs[word]]
    return len(changed) > 1 or any("from" in pair for pair in changed)


def _without(judged: Features, left_out: set[str]) -> list[str]:
    return [word for word in judged.content if word not in left_out]


def _normal(found: list[str]) -> list[str]:
    """Tokens with wordings of several words replaced; capitals are kept where they may tell a name from a word."""
    shouting = not any(any(letter.islower() for letter in token) for token in found)
    tokens = [token if _is_acronym(token) and not shouting else token.lower().replace("’", "'") for token in found]
    text = f" {' '.join(tokens)} "
    text = re.sub(r"(?<=\w)('s|'re|'ve|'d|'ll)(?= )", r" \1", text)
    text = text.replace(" what 's ", " what is ").replace(" who 's ", " who is ").replace(" where 's ", " where is ")
    for phrase, replacement in words.PHRASES:
        text = text.replace(f" {phrase} ", f" {replacement} ")
    return text.split()


def _is_acronym(token: str) -> bool:
    return len(token) > 1 and token.isupper()


def _kind(tokens: list[str]) -> tuple[str, int]:
    """What is asked for, and how many tokens that took."""
    for place, token in enumerate(tokens):
        if token in words.QUESTION_WORDS:
            following = tokens[place + 1] if place + 1 < len(tokens) else ""
            if token == "how" and following in words.DEGREES:
                return f"how {following}", place + 2  # how many, how long, how old
            kinds = {"which": "what", "whom": "who", "whose": "who"}
            return kinds.get(token, token), place + 1
    first = next((token for token in tokens if token not in PUNCTUATION), "")
    # An order, as in "Convert" and "Could you convert", asks for what "What is" asks for.
    return ("yes-no" if first in words.AUXILIARIES else "what"), 0


def _content(tokens: list[str], after: int) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """What may decide an answer, in plain forms, and what each such word is bound by.

    Args:
        after: tokens up to here told what is asked for; a degree among them ("how far") is no content.
    """
    found: list[str] = []
    bound: list[tuple[str, str]] = []
    binding, doing = "", False
    spoken = [token for token in tokens if token not in PUNCTUATION]
    asked = {tokens[after - 1]} & words.DEGREES if after else set()
    for place, token in enumerate(spoken):
        last = place == len(spoken) - 1
        before = spoken[place - 1] if place else ""
        if token in asked:
            asked = set()
        elif token in words.PREPOSITIONS and (last or before in words.BE):
            found.append(token)  # "What is in it", "What is it for"
        elif token in words.DO and (last or doing):
            found.append(token)  # "What do they do"
        elif token in words.DIRECTIONS:
            binding = words.DIRECTIONS[token]
        elif token in words.POSSESSIVES:
            found.append(words.POSSESSIVES[token])
        elif token not in words.FRAME and token not in words.QUESTION_WORDS:
            found.append(_word(token))
            if binding:
                bound.append((found[-1], binding))
            binding = ""
        doing = doing or token in words.DO
    return tuple(found), tuple(bound)


def _word(token: str) -> str:
    """A token in its plain form."""
    if token in words.NEGATIONS:
        return NOT
    if token[0].isdigit():
        return _number(token)
    return _plain(words.NUMBERS.get(token, token))


def _number(token: str) -> str:
    """1,000 is 1000; 3.50 and 3.5 stay apart, which costs little."""
    return token.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?%?", token) else token


def _plain(word: str) -> str:
    """The word that stands for all of its meaning: without endings, first of its synonyms."""
    if not PLAIN_WORD.fullmatch(word):
        return word
    stem = _stem(word)
    return SYNONYMS.get(word, SYNONYMS.get(stem, stem))


def _stem(word: str) -> str:
    """Without the endings of plural, progressive and past; rough, and the same for both questions."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for ending, least in (("ing", 6), ("ed", 5)):
        if word.endswith(ending) and len(word) >= least:
            word = word[: -len(ending)]
            if len(word) > 2 and word[-1] == word[-2] and word[-1] not in "ls":
                word = word[:-1]
            break
    else:
        if word.endswith("es") and len(word) > 4 and word[-3] in "sxzh":
            word = word[:-2]
        elif word.endswith("s") and len(word) > 3 and word[-2] not in "su":
            word = word[:-1]
    return word


OPTIONAL = frozenset(_stem(word) for word in words.OPTIONAL)
SYNONYMS = {
    form: _stem(group.split()[0]) for group in words.SAME for each in group.split() for form in (each, _stem(each))
}
