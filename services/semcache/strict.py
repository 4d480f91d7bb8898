"""What a question's plain words no longer show, and what still decides its answer, for the lexical gate.

Plain words have no endings, capitals, marks or pronouns. So "Who owns it?" would pass for "Who owned it?", "-v" for
"-V", "Can I lend you money?" for "Can you lend me money?" and "a boring student" for "a bored student".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

from services.semcache import words
from services.semcache.stem import stem

SIGNED = re.compile(r"[-+.!~:/\\@&<][^\s]*\w")
INNER = re.compile(r"\w.*[/\\_=<>(\[{|^~*]|[/\\_=<>\[{|^~*].*\w|[)\]}].*\w|\(\d|\d\)")
MARKED = re.compile(
    r"\w{1,2}[-+!]+|\d+(?:[!'\"′″]+|e[-+]?\d+)|[:;=8]['-]?[()\[\]|/\\]|\d*[kKmMgGtT](?:[bB](?:ps|/s)?|W)"
)
CAPITALS = frozenset(
    """polish turkey china apple amazon march may august swift shell target gap windows oracle ruby rust go word excel
    teams mercury mars mark bill will rose frank grant drew jack jordan chad georgia victoria orange discover chase
    delta subway visa stripe square slack zoom signal edge access outlook notion meta alphabet block sprint jaguar
    puma dove tide guess express staples champion bible net swallow nice reading bath cork job ore hue lima aids who it
    pin ram mac cobra pet cat rest soap sad aim ira air dash fast face lamp leap sap smart start stem steam cod sim
    ping ace arm bios boss cad camp case cold cure dim era fees gas hip hop ids lan led mad map mean mice pass pip
    pop pot raid sat sit spa tan tar tin wan win atm bat lips scuba nut fit ebb moot""".split()
)
"""Words that are something else with a capital, or in capitals."""
SCOPES = (
    re.compile(r"\bnot (?:all|every\w*|always|necessarily|only|just|both)\b"),
    re.compile(r"\bnot (?:have|need|required|obliged) to\b"),
    re.compile(r"\b(?:only|even|just) (?:i|we|you|he|she|they|it)\b"),
    re.compile(r"\b(?:is|are|was|were|be)\b.*\blike$"),
    re.compile(r"\byou (?:speak|like|love|think|feel|remember|trust|live|prefer|believe|enjoy|hate|want)\b"),
    re.compile(r"\btoo (?=\w)(?!(?:please|and|if|or|when|for|in|on|at)\b)"),
    re.compile(r"\b(?:i|my|me|we|our)\b.*\b(?:if|when|once|unless) you\b"),
    re.compile(r"\b(?:if|when|once|unless) you\b.*\b(?:i|my|me|we|our)\b"),
    re.compile(r"\b(?:have|has) (?:ever|i|we|you|they|he|she|it|people|the \w+)\b(?! (?:got|to)\b)"),
)
"""What a "not" or an "only" holds for; "What is he like?"; opinions; "too hot", not "me too"; mine if you cancel; what
has happened so far."""
TO_ASK_WHEN = re.compile(
    r"(?i)\b(?:what|which)(?:'s the| is the| was the)? (hour|time|day|date|month|season|year|century)\b"
)
NOUNS = frozenset("book ship fly park train pair spell trace mean".split())
"""Something else when nobody does it."""
GERUND = frozenset("after before for of by when while without to in on with about from the".split())
NAMING = re.compile(r"(?:what|who|where) (?:is|are|was|were) (?:(the|an?) )?(\w+)$")
ONE_OR_MINE = re.compile(r"what (?:is|are) (an?|my|your|our) [\w -]+$")
PAST = frozenset(
    form
    for form, plain in words.IRREGULAR.items()
    if form != plain and not form.endswith(("ing", "s", "men", "n")) and form not in words.IRREGULAR.values()
) - frozenset("feet teeth mice bacteria cacti people persons lay rose".split())
PAST |= frozenset("won began found saw sat fought bit shot swore sought spun dug ran hid shook".split())
FIRST, SECOND, THIRD = frozenset("i we me us".split()), frozenset(("you",)), frozenset(("they", "them"))
PEOPLE = dict.fromkeys(FIRST, "i") | dict.fromkeys(SECOND, "you") | dict.fromkeys(THIRD, "they")
BETWEEN = frozenset("still also usually ever already now even actually always have be".split())
OFFERING = frozenset(
    """have sell ship deliver offer accept take provide charge own like love know think feel remember trust live work
    speak believe open close stock prefer recommend enjoy hate want hire""".split()
)
"""What "Do you" asks whoever answers, where "Do I" asks something else."""


def exact(text: str) -> tuple[str, ...]:
    """What must stand in both questions as it is: flags, paths, signs, formulas; and what a "not" holds for."""
    chunks = text.split()
    found = [token for chunk in chunks for token in _exact(chunk)]
    plain = " ".join(re.sub(r"(?i)n['’]t\b|\bcannot\b", " not", text).lower().split()).rstrip(" ?.!")
    return (*found, *(f"{place}" for place, scope in enumerate(SCOPES) if scope.search(plain)))


def _exact(chunk: str) -> list[str]:
    token = chunk.rstrip(",.;?")
    if token[:1].isalpha() and len(token) > 3:
        token = token.rstrip("!:")
    if MARKED.fullmatch(token) or SIGNED.match(token) or INNER.search(token):
        return [token]
    return []


def precision(text: str) -> str:
    """In what a question of when wants its answer: "What time", "What year"; "" when it leaves that open."""
    found = TO_ASK_WHEN.search(text)
    unit = found[1].lower() if found else ""
    return {"hour": "time", "date": "day"}.get(unit, unit)


def naming(text: str) -> str:
    """The article in a question of a single word, as in "What is the cloud?"; whether it is about any or one's own."""
    plain = " ".join(re.sub(r"(?i)['’]s\b", " is", text).lower().split()).rstrip(" ?.!")
    found = NAMING.match(plain)
    if found is None:
        whose = ONE_OR_MINE.match(plain)
        return "" if whose is None else "a" if whose[1] in ("a", "an") else "my"
    few = found[1] is None and stem(found[2]) == found[2]
    return "the" if found[1] == "the" else "mass" if few else "a"


def endings(raw: Iterable[str], participles: Set[str]) -> tuple[str, ...]:
    """Words that end in -ing, participles, and words whose capitals matter, with their plain forms."""
    found = []
    before = "."
    for written in raw:
        token = written.lower()
        plain = stem(token)
        bound, starts, before = before in GERUND, before in ".!?:", token
        if token in CAPITALS and not starts:
            found.append(f"as {token} {written}")
        if token.endswith("ing") and plain != token and not bound:
            found.append(f"ing {plain}")
        elif plain != token and (token.endswith("ed") or token in participles):
            found.append(f"ed {plain}")
    return tuple(dict.fromkeys(found))


def said_when(raw: list[str]) -> str:
    """When something is, as the form of the first verb after "who", "what" or "which" tells."""
    small = [token.lower() for token in raw]
    place = next((at for at, token in enumerate(small) if token in words.QUESTION_WORDS), len(small))
    return "past" if any(each in PAST or is_past(each) for each in small[place + 1 : place + 4]) else "does"


def asked_of(tokens: list[str], modal: str) -> str:
    """The modal verb of a yes-no question, and of whom it is said where "can" and "do" say different things of them."""
    verb, who, *rest = (*tokens, "", "")
    if verb not in words.DO and modal != "may":
        return modal
    who = PEOPLE.get(who, "it")
    if who == "you" or "need" in rest[:1] or words.BE & set(rest):
        return modal
    return f"{'do' if verb in words.DO else modal} {who}"


def is_past(token: str) -> bool:
    """Whether -ed was put to a word: "used", not "red" and "need"."""
    return token.endswith("ed") and not token.endswith("eed") and stem(token) != token


def people(tokens: list[str], done: Set[str]) -> tuple[str, ...]:
    """Who does something to whom, as far as pronouns tell.

    Args:
        tokens: plain words.
        done: those that stand there as participles.
    """
    found: list[str] = []
    for place, token in enumerate(tokens):
        who = PEOPLE.get(token)
        if who is None:
            continue
        before = tokens[place - 1] if place else ""
        after = tokens[place + 1 : place + 3]
        if after and after[0] in ("get", "have") and after[-1] in done:
            found.append(f"suffers {after[-1]}")
            after = []
        takes = token in ("me", "us", "them") or (token == "you" and before in words.MARKERS)
        found.append(f"to {who}" if takes else who)
        suffers = next((each for each in after if each in done), "")
        if suffers and (before in words.BE or after[0] in words.BE):
            found.append(f"suffers {suffers}")
        elif after and not takes:
            does = after[-1] if after[0] in BETWEEN else after[0]
            found += [f"does {does}", f"{who} does {does}"]
        if before in words.BE and token in ("i", "we", "you"):
            found.append(f"be {who}")
        if before in words.DO and after and after[0] in OFFERING:
            found.append(f"offers {who}")
    return tuple(dict.fromkeys(found))


def other_people(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether somebody else does it, or to somebody else."""
    if any({f"does {each[8:]}"} & set(two) for one, two in ((ours, theirs), (theirs, ours)) for each in one
           if each.startswith("suffers ")):  # fmt: skip
        return True
    for tag in ("be ", "offers "):
        said = [{each for each in side if each.startswith(tag)} for side in (ours, theirs)]
        if all(said) and not said[0] & said[1]:
            return True
    one, two = ([each for each in side if each.removeprefix("to ") in PEOPLE.values()] for side in (ours, theirs))
    first, second = ([each.removeprefix("to ") for each in side] for side in (one, two))
    if not one or not two:
        return False
    if set(first) == set(second) and len(set(first)) > 1:
        return list(dict.fromkeys(first)) != list(dict.fromkeys(second))
    if ("they" in first) != ("they" in second) and (len(set(first)) == len(set(second)) == 1):
        return True
    alone = len(set(one)) == len(set(two)) == 1
    return alone and one[0] != two[0] and (one[0].startswith("to ") or two[0].startswith("to "))


def asked_of_another(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether "I" do in one question what "you" do in the other, of those that are answered by yes or no."""
    one, two = ({tuple(each.split(" does ")) for each in side if " does " in each} for side in (ours, theirs))
    return any(does == other and who != another for who, does in one - two for another, other in two - one)


STEPS = frozenset("then first later afterwards next finally but after before while because until".split())
"""With these the order of what is done counts, and what a "not" belongs to."""


def other_endings(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether what does it in one question has it done to it in the other: "developing", "developed"."""
    sides = (ours, theirs), (theirs, ours)
    cases = [{each.split()[1]: each for each in side if each.startswith("as ")} for side in (ours, theirs)]
    if any(cases[1].get(word, each) != each for word, each in cases[0].items()):
        return True
    return any(
        each.startswith("ing ") and f"ed {each[4:]}" in two and each not in two and f"ed {each[4:]}" not in one
        for one, two in sides
        for each in one
    )


def done_to_another(ours: tuple[str, ...], theirs: tuple[str, ...], our_text: str, their_text: str) -> bool:
    """Whether two verbs have changed places: "restore a deleted account", "delete a restored account"."""
    one, two = ({each[3:] for each in side if each.startswith("ed ")} for side in (ours, theirs))
    if not (one - two and two - one):
        return False
    first, second = ({stem(word) for word in re.findall(r"\w+", text.lower())} for text in (our_text, their_text))
    return bool((one - two) & second) and bool((two - one) & first)
