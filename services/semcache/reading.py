"""What the lexical gate sees of a question: what is asked for, and the words that may decide the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from services.semcache import strict, words
from services.semcache.asking import asked_first
from services.semcache.concepts import ACTIONS, MAKING, MIDDLE, PERSONS, RELATIONS, THINGS
from services.semcache.phrases import plain_phrases
from services.semcache.stem import root, stem

NOT = "<not>"
"""Stands for every negation."""
SUBJECTS = frozenset("i we you one me us".split())

QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"|“[^”]*”|«[^»]*»|(?<!\w)'[^']*'(?!\w)|https?://\S+")
TOKEN = re.compile(r"'s\b|\d+(?:[.,:/-]\d+)*%?|[^\W\d_]+(?:[-'’][^\W\d_]+)*|\w+|[^\w\s]")
CONTRACTIONS = (
    (re.compile(r"(?i)\b(ca)n['’]t\b|\b(can)not\b"), "can not"),
    (re.compile(r"(?i)\bwon['’]t\b"), "will not"),
    (re.compile(r"(?i)(\w)n['’]t\b"), r"\1 not"),
    (re.compile(r"(?i)\b(i)['’]m\b"), r"\1 am"),
    (re.compile(r"(?i)\b(what|who|where|when|how|that|there|here|it)['’]s\b"), r"\1 is"),
    (re.compile(r"(?i)['’]re\b"), " are"),
    (re.compile(r"(?i)['’]ve\b"), " have"),
    (re.compile(r"(?i)['’]d\b"), " would"),
    (re.compile(r"(?i)['’]ll\b"), " will"),
    (re.compile(r"(?i)(\w)['’]s\b"), r"\1 's"),
    (re.compile(r"(?<=s)['’](?=\s)"), " 's"),
    (re.compile(r"\b(?:United States(?: of America)?|U\.S\.(?:A\.)?|US)(?!\w)"), "USA"),
    (re.compile(r"\b(?:United Kingdom|U\.K\.)(?!\w)"), "UK"),
    (re.compile(r"\bEuropean Union\b"), "EU"),
    (re.compile(r"\bUnited Nations\b"), "UN"),
)
FRONTED = re.compile(r"(?:in|on|at|within|for|with|using|during|from|by|to)\b[^,?!.;]*,", re.IGNORECASE)
PUNCTUATION = frozenset(".,;:!?()[]{}…-–—'’‘“”")
BY_WHOM = re.compile(r"(?i)\bby (?:whom?|which|what)\b|\bwho(?:m|se)?\b.* by\W*$")
NOMINAL = re.compile(r"(?:ion|ment|ance|ence|(?<!e)al|ery|ity)$")
NOT_NOUNS = frozenset("after before without while by through over under about and or not when if than".split())
BE_WHO = re.compile(r"\bwho (?:will |would )?(?:be|is|are|was|were)\b")
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")


@dataclass(frozen=True, slots=True)
class Word:
    """One word that may decide the answer.

    Attributes:
        form: what it is compared by: its plain form, or what stands for all of its meaning.
        raw: as it stands there, in small letters.
        name: whether it has a capital that its place in the sentence does not give it.
        marker: what a preposition binds it as; "" without one.
        verb: whether it is what somebody does, who is not named.
        role: of something that is done, when "who" or "what" asks: "subject" (What eats mice?), "object" (What do mice
            eat?), or "" where that cannot be told.
    """

    form: str
    raw: str
    name: bool = False
    marker: str = ""
    verb: bool = False
    role: str = ""


@dataclass(frozen=True, slots=True)
class Features:
    """What the gate looks at.

    Attributes:
        kind: what is asked for: what, who, when, where, why, how, `how many`, `how much`, yes-no.
        content: everything that may decide the answer, in the order of the text.
        quoted: quotations, identifiers in backticks and addresses, as they are.
        time, modal: of the first auxiliary and the first modal verb; "none" without.
        exact, article, people, endings, steps: what the plain words no longer show (strict.py).
        text: the question itself, for whoever reads it more closely.
    """

    kind: str
    content: tuple[Word, ...]
    quoted: tuple[str, ...]
    time: str
    modal: str
    exact: tuple[str, ...] = ()
    article: str = ""
    people: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    steps: bool = False
    text: str = ""


def features(text: str) -> Features:
    """What the gate looks at in a question."""
    quoted = tuple(found.group(0).strip("`\"“”«»'") for found in QUOTED.finditer(text))
    unquoted = QUOTED.split(text)
    raw = _tokens(' " '.join(part.replace('"', " ") for part in unquoted))
    spoken = [token.lower() for token in raw]
    time = next((words.TIMES[token] for token in spoken if token in words.TIMES), "none")
    tokens = _plain(raw)
    modal = next((words.MODALS[token] for token in tokens if token in words.MODALS), "none")
    kind, after = _kind(tokens)
    modal = strict.asked_of(tokens, modal) if kind == "yes-no" else modal
    done = _done(raw)
    role = "subject" if BY_WHOM.search(text) else _role(tokens, after, done)
    role = role if kind in ROLES else ""
    content = _content(tokens, after, role, done)
    if time == "none":
        time = "modal" if words.MODALS.keys() & set(tokens) else strict.said_when(raw) if role == "subject" else time
    return Features(
        _asked_for(kind, tokens, content),
        tuple(content),
        quoted,
        time,
        modal,
        strict.exact(" ".join(unquoted)),
        strict.naming(text) or (strict.precision(text) if kind == "when" else ""),
        strict.people(tokens, done),
        strict.endings(raw, PARTICIPLES),
        not strict.STEPS.isdisjoint(spoken),
        text,
    )


def _asked_for(kind: str, tokens: list[str], content: list[Word]) -> str:
    """Who wrote it, who the author is and to name the author ask for one thing; so do who and what a president is."""
    common = {word.raw for word in content if not word.name}
    if kind == "who" and common and not MAKERS & common and BE_WHO.search(" ".join(tokens)):
        return "what"
    return "who" if kind == "what" and AGENTS & common else kind


def _tokens(text: str) -> list[str]:
    """Words and punctuation, without contractions; a phrase before the question goes to its end."""
    for pattern, replacement in CONTRACTIONS:
        text = pattern.sub(replacement, text)
    # "In Python, how ..." and "How ... in Python?" bind alike.
    text = asked_first(text)
    fronted = FRONTED.match(text)
    if fronted is not None:
        text = f"{text[fronted.end() :].rstrip(' ?.!')} {fronted.group(0)[:-1]}"
        text = text.strip()
    return TOKEN.findall(text)


def _plain(raw: list[str]) -> list[str]:
    """Plain words; names are marked by "=" and keep their capitals."""
    letters = [token for token in raw if token[0].isalpha()]
    capital = [token for token in letters if token[0].isupper()]
    titled = len(letters) > 3 and len(capital) > 0.7 * len(letters)  # capitals tell nothing
    found: list[str] = []
    starts = True
    for token in raw:
        if token in PUNCTUATION:
            starts = starts or token in ".!?:"
            continue
        small = token.lower().replace("’", "'")
        small = "what" if small == "which" else small
        acronym = len(token) > 1 and token.isupper() and not titled and small != "ok"
        if acronym or (token[0].isupper() and not starts and not titled and small not in NO_NAMES and small != "ok"):
            found.append(f"={token}")
        elif small in ("'s", '"') or small in words.TIMES or small in words.POSSESSIVES:
            found.append(small)
        elif small not in words.ARTICLES:
            found.append(stem(words.NUMBERS.get(small, PAST.get(small, small))))
        starts = False
    return plain_phrases(f" {' '.join(_owned(_dates(found)))} ").split()


def _dates(tokens: list[str]) -> list[str]:
    """The 3rd of March and March 3rd are march 3."""
    found: list[str] = []
    for token in tokens:
        day = ORDINAL.fullmatch(token)
        if token.lstrip("=").lower() in words.MONTHS and found:
            before = found[-2:] if found[-1] == "of" else found[-1:]
            number = ORDINAL.fullmatch(before[0]) or re.fullmatch(r"(\d{1,2})", before[0])
            if number:
                found[-len(before) :] = [token, number.group(1)]
                continue
        if day and found and found[-1].lstrip("=").lower() in words.MONTHS:
            token = day.group(1)
        found.append(token)
    return found


def _owned(tokens: list[str]) -> list[str]:
    """The height of the tower, for the tower's height."""
    while "'s" in tokens:
        place = tokens.index("'s")
        start = place
        while start and not _passed_over(tokens[start - 1]):
            start -= 1
        end = place + 1
        while end < len(tokens) and (tokens[end] == "of" or not _passed_over(tokens[end])):
            end += 1
        tokens = [*tokens[:start], *tokens[place + 1 : end], "of", *tokens[start:place], *tokens[end:]]
    return tokens


def _passed_over(token: str) -> bool:
    return token in COMPARING or token in words.FRAME or token in words.QUESTION_WORDS or token in words.POSSESSIVES


def _kind(tokens: list[str]) -> tuple[str, int]:
    """What is asked for, and how many tokens that took."""
    for place, token in enumerate(tokens):
        if token in words.QUESTION_WORDS:
            following = tokens[place + 1] if place + 1 < len(tokens) else ""
            if token == "how" and following in ("many", "much"):
                return f"how {following}", place + 2
            if token == "what" and following in PERSONS:
                return "who", place + 1
            kinds = {"whom": "who", "whose": "who"}
            return kinds.get(token, token), place + 1
    # An order, as in "Convert" and "Could you convert", asks for what "What is" asks for.
    return ("yes-no" if tokens and tokens[0] in words.AUXILIARIES else "what"), 0


def _done(raw: list[str]) -> set[str]:
    """Plain words that stand there as participles, as far as their form tells."""
    small = [token.lower() for token in raw]
    return {stem(each) for each in small if strict.is_past(each) or each in PARTICIPLES}


def _role(tokens: list[str], after: int, done: set[str]) -> str:
    """Whether "who" or "what" does what is said, or has it done to it."""
    place = next((at for at in range(after, len(tokens)) if tokens[at] in HELPING), -1)
    if after == 0:
        return ""
    if SUBJECTS & set(tokens[after:]):
        return "object"
    if place < 0:
        return "" if tokens[after - 1] in ("many", "much") and done else "subject"
    if tokens[place] in words.DO:
        return "object"
    following = tokens[place + 1] if place + 1 < len(tokens) else ""
    if tokens[place] in words.BE:
        return "object" if done & set(tokens[place + 1 :]) else ""
    if following in SUBJECTS or following in words.POSSESSIVES:
        return "object"
    return "subject" if FORMS.get(following) in DOING else ""


def _content(tokens: list[str], after: int, role: str, done: set[str]) -> list[Word]:
    """What may decide an answer.

    Args:
        after: tokens up to here told what is asked for; a degree among them is no content.
        role: of what is asked for.
        done: words that stand there as participles.
    """
    found: list[Word] = []
    marker, binds, doing = "", False, False
    asked = {tokens[after - 1]} - words.QUESTION_WORDS if after else set[str]()
    person = after if after and kind_of_person(tokens, after) else -1
    passive_by = bool(words.BE & set(tokens)) and bool(done)
    for place, token in enumerate(tokens):
        last = place == len(tokens) - 1
        before = tokens[place - 1] if place else ""
        plain = ""
        if token in asked:
            asked = set()
        elif token in words.PREPOSITIONS and (last or before in words.BE):
            plain = token  # "What is in it", "What is it for"
        elif token in words.DO and (last or (doing and before not in words.QUESTION_WORDS)):
            plain = "do"  # "What do they do"
        elif token in words.MARKERS:
            marker, binds = words.MARKERS["than" if before == "than" else token], False  # "than to buy"
            doing = doing or token in words.DO
            continue
        elif token in words.POSSESSIVES:
            plain = words.POSSESSIVES[token]
        elif token == "by" and role == "object" and passive_by and not last:
            plain = ""  # what they are eaten by is what eats them
        elif token in words.ORDERS and not (before in SUBJECTS or 0 < after <= place or tokens[0] in words.AUXILIARIES):
            plain = ""  # said to who answers
        elif token == '"':
            plain = ""  # compared as it is
        elif token in words.QUESTION_WORDS and token not in words.RELATIVES and place >= after:
            plain = "if" if token == "when" else token  # what happens when, as against what happens where
        elif token not in words.FRAME and token not in words.QUESTION_WORDS:
            plain = token
        if plain:
            verb = before in SUBJECTS or (last and before in words.BE) or ("by" not in tokens and plain in done)
            acts = marker in ("to", "for") and FORMS.get(plain) in DOING  # "to change" binds nothing
            word = _word(plain, "" if plain in OWNERS or acts else marker, verb)
            if place == person:
                word = Word(f"which {plain}", f"which {plain}")
            elif word.raw in AGENTS:
                word = replace(word, role="subject")  # who teaches somebody
            elif word.form in ACTED and not word.name and not NOMINAL.search(word.raw):
                word = replace(word, role=role or _said(word, before, bool(found), doing))
            elif not (role or word.name or plain in NOT_NOUNS or NOMINAL.search(plain)) and (
                not verb or before in SUBJECTS or plain in done
            ):
                word = replace(word, role=_said(word, before, bool(found), doing))
            found.append(word)
            binds = plain not in OWNERS and not acts
            marker = "" if acts else marker
        if (not plain or last) and binds:
            marker, binds = "", False
        doing = doing or token in words.DO or token in words.MODALS
    return found


def _said(word: Word, before: str, late: bool, doing: bool) -> str:
    """What a word that was said before what is done has to do with it, outside questions for who or what."""
    if word.form in MOVED:
        return ""
    if word.verb:
        return "object"
    active = doing and late and before not in words.FRAME | words.POSSESSIVES.keys() | NOT_NOUNS
    return "subject" if active and word.raw == stem(word.raw) else ""


def kind_of_person(tokens: list[str], after: int) -> bool:
    """Whether "which author" stands there for "who"."""
    return tokens[after - 1] == "what" and after < len(tokens) and tokens[after] in PERSONS


def _word(token: str, marker: str, verb: bool) -> Word:
    if token.startswith("="):
        raw = words.DEMONYMS.get(token[1:].lower(), token[1:].lower())
        if raw in words.NUMBERS:
            return Word(words.NUMBERS[raw], words.NUMBERS[raw], marker=marker)
        return Word(raw if token[1:].isupper() else FORMS.get(stem(raw), stem(raw)), raw, True, marker)
    if token in words.NEGATIONS:
        return Word(NOT, NOT, marker=marker)
    if token[0].isdigit():
        number = token.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?%?", token) else token
        return Word(number, number, marker=marker)
    return Word(FORMS.get(token) or root(token), token, marker=marker, verb=verb)


OWNERS = frozenset(words.POSSESSIVES.values())
COMPARING = frozenset("higher greater larger bigger lower smaller more less".split())
NO_NAMES = words.ARTICLES | words.QUESTION_WORDS | words.AUXILIARIES | words.PREPOSITIONS | {"i"} | words.DO
FORMS = {
    form: stem(group[0])
    for group in (*ACTIONS, *THINGS, *MAKING, *(names for names, _ in RELATIONS.values()))
    for each in group
    for form in (each, stem(each))
}
DOING = {stem(group[0]) for group in ACTIONS}
MOVED = {FORMS.get(stem(each), stem(each)) for each in MIDDLE}
ACTED = DOING | {FORMS[stem(group[0])] for group in MAKING}
ROLES = ("who", "what", "how many", "how much")
HELPING = words.BE | words.DO | words.MODALS.keys() | {"will", "would", "shall"}
PAST = {"found": "find"}
"""Of verbs whose past is the plain form of another one."""
PARTICIPLES = frozenset(
    """built made paid sent sold bought brought caught held kept lost found told taught thought understood written
    spoken eaten driven taken given broken stolen chosen frozen grown known shown drawn thrown hidden worn torn sung
    swum begun run won met read put cut set shut spent lent born done gone seen forgotten gotten got""".split()
)
MAKERS = {each for group in MAKING for each in group}
AGENTS = {each for group in MAKING for each in group[1:] if each in PERSONS or each.endswith(("er", "or"))}
