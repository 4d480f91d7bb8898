"""The lexical gate: may two questions that an embedding finds alike have the same answer?

An embedding hardly sees a number, a name or a "not": such pairs reach a cosine of 0.99, where true paraphrases begin at
0.70. So similarity alone never accepts. Here the words decide: what is asked for must be the same, and so must all that
carries meaning; what only belongs to the way of asking may differ. What is not known counts as meaning, so an unknown
word costs a hit and never gives a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.semcache import strict, words
from services.semcache.concepts import (
    ACTIONS,
    BY_ONESELF,
    BY_OTHERS,
    LIGHT,
    MAKING,
    ONE_SIDED,
    PERSONS,
    RELATIONS,
    SELF_SERVICE,
    SOFT,
    UNBOUND,
    WITH_ACTIONS,
)
from services.semcache.reading import AGENTS, FORMS, NOT, OWNERS, Features, Word, features
from services.semcache.rivals import excluded
from services.semcache.stem import root, stem

__all__ = ["Features", "difference", "features", "may_be_judged"]

JUDGED = frozenset(("words", "kind", "modal"))
"""Reasons that say "not known to be the same", where all others say "another one"."""


def difference(asked: Features, known: Features) -> str:
    """Why two questions may not have the same answer; "" when nothing is found.

    The reasons are labels: empty, quoted, kind, time, modal, negation, number, words, order, direction, form, people.
    """
    if not (asked.content or asked.quoted):
        return "empty"
    if asked.quoted != known.quoted or sorted(asked.exact) != sorted(known.exact):
        return "quoted"
    if asked.kind != known.kind and not _where_is_how(asked, known):
        return "kind"
    if _at_another_time(asked, known):
        return "time"
    if asked.modal != known.modal and not _asked_alike(asked, known):
        return "modal"
    shared, more, less = _matched(asked.content, known.content)
    if any(_means_more(our, their, asked, known) for our, their in shared):
        return "words"
    if (sum(word.form == NOT for word in more) - sum(word.form == NOT for word in less)) % 2:
        return "negation"
    if any(any(letter.isdigit() for letter in word.form) for word in (*more, *less)):
        return "number"
    certain = set[str]().union(*(CERTAIN.get(word.form, ()) for word, _ in shared))
    told = (
        _tells_who(word, each)
        for extra, each in ((more, asked), (less, known))
        for word in extra
        if word.form not in certain
    )
    if any(told) or not _may_differ(asked.kind, [pair[0] for pair in shared], more, less):
        return "words"
    if _reordered(shared, asked.content, known.content) or (
        asked.steps and _done_in_other_order(shared, known.content)
    ):
        return "order"
    if _turned(shared):
        return "direction"
    if strict.other_endings(asked.endings, known.endings):
        return "form"
    if strict.done_to_another(asked.endings, known.endings, asked.text, known.text):
        return "direction"
    if asked.article and known.article and asked.article != known.article:
        return "form"
    if asked.kind == "yes-no" and strict.asked_of_another(asked.people, known.people):
        return "people"
    return "people" if strict.other_people(asked.people, known.people) else ""


def may_be_judged(reason: str, asked: Features, known: Features) -> bool:
    """Whether somebody who reads both questions more closely may overrule what `difference` found.

    Never on a name, or what else tells two questions apart for certain, wherever it stands among the reasons.
    """
    if reason not in JUDGED or excluded(asked.text, known.text):
        return False
    if [word.raw for word in asked.content if word.name] != [word.raw for word in known.content if word.name]:
        return False
    shared, _, _ = _matched(asked.content, known.content)
    return not _turned(shared) and not (
        strict.other_endings(asked.endings, known.endings) or strict.other_people(asked.people, known.people)
    )


def _at_another_time(asked: Features, known: Features) -> bool:
    """Whether one question is about what was and the other about what is."""
    times = asked.time, known.time
    if asked.time == known.time or tuple(sorted(times)) in words.SAME_TIME:
        return False
    if not {"future", "does"} & set(times) and any(
        word.form in LASTING and not _passes(word, asked, known) for word in asked.content
    ):
        return False
    if "past" in times:
        return not all(_has(each, "if") for each in (asked, known))
    return not (asked.kind == "how" or _has(asked, "long") or all(_has(each, "if") for each in (asked, known)))


def _asked_alike(asked: Features, known: Features) -> bool:
    """Whether two modal verbs ask for the same: "Can I pay by card?" and "Is it possible ...", not "Do I pay ..."."""
    one, two = sorted((asked.modal.partition(" "), known.modal.partition(" ")))
    if {one[0], two[0]} == {"do", "may"}:
        return one[2] != two[2]
    plain = {"none" if each[0] == "do" else each[0] for each in (one, two)}
    if asked.kind == "how" and "must" not in plain:
        return True
    return len(plain) == 1 or ("none" in plain and (asked.kind != "yes-no" or "may" in plain))


def _passes(made: Word, asked: Features, known: Features) -> bool:
    """Whether somebody else may do it now: a work keeps its director, a bureau does not."""
    if made.form in PASSING:
        return True
    nouns = {word.raw in AGENTS for each in (asked, known) for word in each.content if word.form == made.form}
    return made.form in OFFICES and (len(nouns) == 1 or "does" in (asked.time, known.time))


def _where_is_how(asked: Features, known: Features) -> bool:
    """Where one can do something oneself and how one does it have one answer."""
    alike = {asked.kind, known.kind} == {"where", "how"}
    return alike and all(any(word.verb and word.form in AT_A_PLACE for word in each.content) for each in (asked, known))


def _has(judged: Features, form: str) -> bool:
    return any(word.form == form and not word.name for word in judged.content)


def _matched(ours: Iterable[Word], theirs: Iterable[Word]) -> tuple[list[tuple[Word, Word]], list[Word], list[Word]]:
    """Pairs of one meaning in the order of ours, what only ours has and what only theirs has."""
    left = list(theirs)
    shared, more = [], []
    for word in ours:
        twin = next((each for each in left if _equal(word, each)), None)
        if twin is None:
            more.append(word)
        else:
            left.remove(twin)
            shared.append((word, twin))
    return shared, more, left


def _equal(one: Word, two: Word) -> bool:
    if one.name and two.name:  # Adam and Adams
        return one.raw == two.raw
    return one.form == two.form or one.raw == two.raw


def _means_more(our: Word, their: Word, asked: Features, known: Features) -> bool:
    """Whether two words of one meaning have another one here: a park and parking, a quick sort and a fast one."""
    if our.raw == their.raw or our.form != their.form or our.name or their.name:
        return False
    for word, each in ((our, asked), (their, known)):
        if word.raw in strict.NOUNS and f"does {word.raw}" not in each.people:
            return True
    if asked.kind != "what" or our.raw.endswith("est") or root(our.raw) == root(their.raw):
        return False
    return all(_is_of_words(each) for each in (asked, known))


def _is_of_words(judged: Features) -> bool:
    """Whether a question is about what a word means."""
    forms = [word.form for word in judged.content]
    return (
        len(forms) == 1
        or "difference" in forms
        or (len(forms) < 4 and judged.time in ("be", "none") and not ASKED_OF & set(forms))
    )


def _tells_who(word: Word, judged: Features) -> bool:
    """Whether what is done, to which "I" or "you" would add nothing, is done by somebody else."""
    if word.form not in BY or word.name or f"ed {word.raw}" in judged.endings or f"to {word.raw}" in judged.endings:
        return False
    return judged.time == "past" or not any(f"{who} does {word.raw}" in judged.people for who in BY[word.form])


def _may_differ(kind: str, shared: list[Word], more: list[Word], less: list[Word]) -> bool:
    """Whether the words that only one of the questions has decide nothing."""
    if not shared:
        return not (more or less)
    if kind == "yes-no" and all(any(word.verb for word in each) for each in (more, less)):
        return False  # "Do you require" and "Do you provide"
    passed, optional = set[str](), set(SOFT_FORMS)
    for word in shared:
        if not word.name:
            passed |= BESIDE.get(word.form, frozenset())
            optional |= ONE_SIDED.get(word.form, frozenset())
    for light in LIGHT_FORMS.get(kind, NOTHING):
        both = kind == "what" or (kind == "where" and "get" in light)
        if both and light and not all(any(word.form in light for word in each) for each in (more, less)):
            continue  # what is in it is not what it is
        over, under = ([word for word in each if word.name or word.form not in passed | light] for each in (more, less))
        if not (over and under) and all(not word.name and word.form in optional for word in (*over, *under)):
            return True
    return False


def _reordered(shared: list[tuple[Word, Word]], ours: tuple[Word, ...], theirs: tuple[Word, ...]) -> bool:
    """Whether two words have changed places that could have changed roles."""
    passed = set[str]().union(*(BESIDE.get(word.form, ()) for word in ours))
    places = [
        (theirs.index(their), our, their)
        for our, their in shared
        if our.form not in passed and not (_is_bound_by_nothing(our) and _is_bound_by_nothing(their))
    ]
    for late, (place, our, their) in enumerate(places):
        for earlier, other_our, other_their in places[:late]:
            if earlier <= place or _told_apart((our, their), (other_our, other_their)):
                continue
            if earlier - place > 1 or not _compound((our, their), (other_our, other_their)):
                return True
    return False


def _done_in_other_order(shared: list[tuple[Word, Word]], theirs: tuple[Word, ...]) -> bool:
    """Whether what is done, or not done, or what it is done with, follows in another order."""
    places = [theirs.index(their) for _, their in shared]
    return places != sorted(places)


def _is_bound_by_nothing(word: Word) -> bool:
    """Whether no other word of a question can take a word's role."""
    if word.name or word.marker in ("from", "to", "than"):
        return False
    return word.form in UNORDERED or word.verb or word.form.endswith("est")


def _told_apart(one: tuple[Word, Word], two: tuple[Word, Word]) -> bool:
    """Whether prepositions say in both questions alike which word has which role."""
    return one[0].marker == one[1].marker and two[0].marker == two[1].marker and one[0].marker != two[0].marker


def _compound(late: tuple[Word, Word], early: tuple[Word, Word]) -> bool:
    """Whether two words that stand side by side are once "land animal" and once "animal on land"."""
    ours = early[0].marker == "" and late[0].marker in WITHIN and early[1].marker == late[1].marker
    theirs = late[1].marker == "" and early[1].marker in WITHIN and early[0].marker == late[0].marker
    return ours or theirs


def _turned(shared: list[tuple[Word, Word]]) -> bool:
    """Whether words have changed roles: "to Rome from Oslo", "the effect of heat on ice" and "on heat of ice"."""
    bound = [(our.marker, their.marker) for our, their in shared if our.marker and their.marker]
    changed = {pair for pair in bound if pair[0] != pair[1]}
    moved = {(our.marker, their.marker) for our, their in shared if our.marker != their.marker}
    if any((theirs, ours) in moved for ours, theirs in moved):  # each is bound as the other was
        return True
    if any(our.role != their.role and our.role and their.role for our, their in shared):
        return True
    return len(changed) > 1 or any("from" in pair for pair in changed)


def _forms(found: Iterable[str]) -> frozenset[str]:
    return frozenset(FORMS.get(stem(word)) or root(stem(word)) for word in found)


BESIDE = {FORMS[stem(name)]: _forms((*beside, "have")) for name, (_, beside) in RELATIONS.items()}
CERTAIN = {form: beside for form, beside in BESIDE.items() if form != "price"}
BESIDE |= {name: BESIDE.get(name, frozenset()) | _forms(beside) for name, beside in WITH_ACTIONS.items()}
BY = dict.fromkeys(_forms(BY_ONESELF), ("i",)) | dict.fromkeys(_forms(BY_OTHERS), ("you", "they"))
ASKED_OF = BESIDE.keys() | _forms(("advantage", "disadvantage", "symptom", "best"))
WITHIN = frozenset(("of", "in", "on", "for", "at"))
SOFT_FORMS = _forms(SOFT) | {f"which {each}" for each in PERSONS}
PASSING = _forms(("own", "teach"))
OFFICES = _forms(("direct", "sing"))
LASTING = _forms((*(group[0] for group in MAKING), "bear", "die"))
UNORDERED = _forms((*RELATIONS, *(group[0] for group in (*ACTIONS, *MAKING)), *OWNERS, *SOFT, *UNBOUND))
NOTHING = (frozenset[str](),)
LIGHT_FORMS = {kind: NOTHING + tuple(_forms(group.split()) for group in groups) for kind, groups in LIGHT.items()}
AT_A_PLACE = _forms(SELF_SERVICE)
