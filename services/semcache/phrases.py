"""Wordings of several words and their plain form, for the lexical gate.

They are looked for in plain words (stem.py), in this order, each once; names are marked there and never match. In a
pattern `a|b` is either word, `x?` may be missing, `START` and `END` are those of the text, and words in capitals are
any word of their class. `(a|b)`, `*` for one word, `#` for a number and `...` for words up to the next are kept: the
result has them as `1`, `2`.
"""

from __future__ import annotations

import re

from services.semcache.frames import FRAMES, LATER
from services.semcache.stem import stem
from services.semcache.words import POSSESSIVES, QUESTION_WORDS, TIMES

Rule = tuple[tuple[frozenset[str], ...], re.Pattern[str], str]
"""Words of which a text must have one each, what is looked for, what comes in its place."""

CLASSES = {
    "BE": "is|are|was|were|be|am|been",
    "DO": "do|does|did",
    "CAN": "can|could|may|might|would|will|should|do|does|did",
    "MUST": "must|should|shall|do|does",
    "WANT": "like|want|need|plan|try|wish|look|hope|intend|have",
    "I": "i|we|you|one|person|customer|user|somebody|someone|anyone",
    "GOOD": "good|easy|easiest|best|right|correct|proper|simple|simplest",
    "WAY": "way|method|step|process|procedure|instruction|approach",
    "EVENT": "found|foundation|release|publication|launch|start|open|close|departure|arrival|check-in|check-out|end",
    "MEASURE": "weight|height|age|speed|temperature|density|depth|price|population|area|distance|size",
    "UNIT": "gram|kilogram|pound|ounce|ton|liter|gallon|mile|kilometer|meter|yard|foot|inch|centimeter|millimeter",
    "PASSING": "fall|collapse|sink|eruption|explosion|arrival|departure",
    "LENGTH": "mile|kilometer|meter|yard|foot|centimeter|inch",
    "MORE": "higher|greater|larger|bigger",
    "*": r"[^\s=]+",
    "ANY": r"\S+",
    "#": r"\d\S*",
    "...": r"\S+(?: \S+)*?",
}

RULES = """
CAN i|you|we please? help me|us? to|with? = please
CAN you|anyone please? tell|explain|show|give|say|describe|clarify|name|list|recommend|suggest me|us? = please
please? tell|show|explain|help|teach|remind|give me|us about|on? = please
please? let me know = please
START i would|will? like|love|want|need|wish to know|learn|understand|find-out|ask about|if|whether? = please
START i would|will? like|love|want|need|have|wish|hope|try|plan|intend to = please
START i BE try|look|go|plan|wonder|search|hope|curious to|for|if|about? know? = please
START i would|will? like|love|want|need = please
CAN|DO|have you happen? to? know = please
CAN|DO|have you have? idea|information|info|clue about|of|on? = please
any|an idea|clue about|of|on? =
is|are there way|method|possibility|option|chance to|of = can i
is it possible|ok|okay|fine|feasible|permissible|permit|allow for? I? to = can i
BE I able|allow|permit|free to = can i
is it possible|ok|okay that I = can i
what is|are GOOD? WAY to|for|of|on = how to
what is|are involve in = how to
what step|instruction|action DO|CAN|MUST|have I? take|follow|need|have? to = how to
what DO|CAN|MUST I? need|have? to? do|follow if|when i want|need? to? = how to
what DO|CAN|MUST I? need|have? to? do END = how can i END
what DO|CAN|MUST I? need|have? to? do to|for|about? = how to
what must i do to = how to
what DO|CAN|MUST I go about = how to
how DO|CAN|MUST I go about = how to
how DO|CAN|MUST I? go? about? do? that|so|this|it = how
what|in way|manner CAN|DO|MUST = how can
in what way = how
instruction|guide|guidance|step|way|procedure|process|help to|for|on = how to
guide|walk|take me|us through = how to
how to = how can i
by who|whom = who
at|on|in what time|date|day|year|month|moment|century|season = when
what time|date|day|year|month|century BE|DO|CAN|MUST|shall = when is
what is time|date|day|year|month when|that|in|on|at which? = when
date|day|year|month|time of birth = when bear
birth date|day|year|time = when bear
birthday = when bear
birthplace|birth-place of? = where bear
place of birth of? = where bear
date|day|year of death = when die
death date|day|year = when die
(EVENT) year|date|time = when 1
date|year|time of (found|foundation|release|publication|launch|departure|arrival) = when 1
open|business hour = open-hours
what is when = when is
for what reason|purpose = why
what is|are reason|cause for|of|that|why|behind = why
what reason|cause BE there for|of = why
what is|are behind|responsible = why
what cause|make = why
how come = why
why BE|DO there = why
in|at what place|spot|location = where
what place|spot|location = where
what is location|whereabouts of? = where is
what is where = where is
what is who = who is
who is it who|that = who
what is name of = what is
who become = who is
what is * that = what is 1
what city BE capital = what is capital
capital city = capital
greatest|largest|biggest|highest number|amount|count of = most
smallest|lowest|least number|amount|count of = fewest
what? is? number|amount|quantity|count of (day|week|month|year|hour|minute) = what long 1
what? is? number|count of = how many
what? is? amount|quantity of = how much
is|are of population = is population
how many person|inhabitant|resident|citizen live|reside|DO|have? = what population
how many inhabitant|resident|citizen = what population
how big|large|high is population = what population
how big|large|high is price = what price
how tall|high|height = what height
how deep = what depth
how wide|broad = what width
how old MUST|I|* I|have|need? to? be to? = what minimum age
from|at what age CAN = what minimum age
what age MUST|DO I|* have|need? to? be to? = what minimum age
what age = what age
how old = what age
how fast|quick|quickly|rapidly = what speed
how heavy = what weight
how much DO ... weigh = what weight 1
how hot|cold|warm MUST it be for = at what temperature
how hot|cold|warm = what temperature
how big|large = what size
how dense = what density
how expensive|costly|pricey|cheap = what price
how much money? DO|CAN|MUST|have I? have|need? to? pay for? = what price
how much is|are|be # = what is 1
how much is|are|be it to = what price
how much is|are = what price
how much DO|CAN I have? to? charge|ask|pay for|to = what price
what DO|CAN I have? to? charge|ask|pay for|to = what price
how much DO|CAN ... cost = what price 1
what DO|CAN ... cost = what price 1
how much DO|CAN cost = what price
how much money = what price
how often|frequently = what frequency
how many time per|each|every? (day|week|month|year) = what frequency 1
how far away? = what distance
how many (LENGTH) lie|away|is|are|be? there? (separate|apart|between|from|away) = what distance in 1 2
how many (LENGTH|year|degree) (high|tall|long|wide|deep|old|hot|heavy) = how 2 in 1
how many (LENGTH) is|are it (from|to) = what distance in 1 2
how much time = what long
how long away? = what long
for what long = what long
for? how many (day|week|hour|minute|month|year|second) DO|CAN|will ... take|need|last|require|run = what long 1 2
what time|duration|period|span = what long
delivery|deliver|shipping|ship|transit|transport (time|duration|period) = long deliver
(warranty|guarantee) period|duration|length|time = long 1
(boil|bake|fry|cook|freeze|melt|charge|wait|process|travel|journey|flight|preparation) time|duration = long 1
time|duration|length of = long of
fall (color|colour|season) = autumn 1
in|of|during fall = in autumn
(boil|freeze|melt) point|temperature = point 1
at? how many degree = what temperature in
at? what temperature in (ANY) DO|will|can ... (boil|freeze|melt) = what is point 3 of 2 in 1
at? what temperature DO|will|can ... (boil|freeze|melt) = what is point 2 of 1
at what temperature ... to (boil|freeze|melt) = what is point 2 of 1
most recent = last
(is|are|was|were) ... over END = 1 2 end END
switch|set ... to = change 1 to
run through = flow through
reach|get|contact your? customer|client? support|service|care|help team|desk|staff|department? = contact support
customer|client support|service|care team|desk|staff|department? = support
support|service|help team|desk|staff = support
how can|do|should i get|go|come|reach (to|from) = how can i travel 1
how can|do|should i reach|get-to = how can i travel to
get|go|come|travel|drive (from|to) = travel 1
what is|are ... make of|from|out = what ingredient in 1
what go into|in = what ingredient in
what ingredient? DO ... contain|consist of? END = what ingredient in 1 END
must|should|shall I have = do i need
BE I require|oblige to = do i need to
have|has got? to = need to
how DO ... differ from = what is difference 1 and
what distinguish|separate ... from = what is difference 1 and
what set ... apart from = what is difference 1 and
how is|are ... different from = what is difference 1 and
how is|are ... different|differ END = what is difference 1 END
how DO ... differ END = what is difference 1 END
difference between|of = difference
similarity between|of = similarity
what (country|continent|city|state|region|county|ocean|sea) is|are|do|does|lie ... in|on END = in what 1 is 2 END
(country|continent|city|state|region|county) is home to = 1 is
distance between = distance
in|with? what money|currency = what currency
form|type|kind|option|way|mean of payment = payment method
payment option|form|type = payment method
payment method DO i|you take = payment method do you accept
after|once i|you|we have = after
once i|you|we = after
* i|you have|offer END = 1 END
less|fewer than = under
(MEASURE) of? ... MORE than = more 1 of 2 than
MORE (MEASURE) = more 1
heavier = more weight
taller = more height
older = more age
faster|quicker = more speed
hotter|warmer = more temperature
denser = more density
deeper = more depth
bigger|larger = more size
farther|further = more distance
more expensive = more price
weigh more = more weight
cost more = more price
more person live|inhabitant = more population
more than = over
right now = now
who receive|get = who win
where in ... (setting|menu|profile|app|account) DO|CAN i = how can i in 1 2
at moment = now
turn|switch on = enable
turn|switch off = disable
hook up = connect
set up = setup
log|sign in|on to|into? = login
log|sign out|off = logout
sign up = sign-up
make|open|create|setup account = register
get|be in touch with = contact
get hold of = contact
reach out to = contact
speak|talk to|with = contact
money back = refund
give|send|bring ... back = return 1
give|send|bring back = return
put together = assemble
take place = happen
come into|to being|existence = found
come about = happen
take up = learn
start|begin learn = learn
get rid of = delete
call off = cancel
put off = postpone
pick up = collect
under|cover|by warranty = warranty
(card|account|contact|pay|payment) information|data|info = 1 detail
free of charge = free
at no extra? cost|charge = free
without charge|cost|pay = free
united state of? america? = usa
united kingdom = uk
per|each|every day = daily
per|each|every week = weekly
per|each|every month = monthly
per|each|every year = yearly
in|on planet? world|earth = of world
how many (*) is|are|be there? in # * = convert 2 3 to 1
how many (*) make|equal|is|are|be # * = convert 2 3 to 1
# * is|are|be|equal|make how many (*) = convert 1 2 to 3
what is # * in = convert 1 2 to
"""


def _compile(rule: str) -> Rule:
    pattern, _, result = rule.partition("=")
    parts, needed = [], []
    for token in pattern.split():
        optional, word = token.endswith("?"), token.rstrip("?")
        kept = word in ("*", "#", "...") or word.startswith("(")
        choices = [CLASSES.get(each, _plain(each)) for each in word.strip("()").split("|")]
        part = "|".join(choices)
        part = f"({part}) " if kept else f"(?:{part}) "
        part = {"END": "$", "START": "(?<=^ )"}.get(token, part)
        parts.append(f"(?:{part})?" if optional else part)
        words = frozenset("|".join(choices).split("|"))
        if not optional and token not in ("END", "START") and all(LITERAL.fullmatch(each) for each in words):
            needed.append(words)
    results = [rf"\g<{each}>" if each.isdigit() else each for each in result.split() if each != "END"]
    replacement = " ".join(results) + " " if results else ""
    return tuple(needed), re.compile(f"(?<= ){''.join(parts)}"), replacement


def _plain(word: str) -> str:
    """A word of a pattern as it stands in plain words."""
    return word if word in KEPT else stem(word)


LITERAL = re.compile(r"[a-z\"][a-z-]*")
KEPT = frozenset((*TIMES, *POSSESSIVES, *QUESTION_WORDS))
COMPILED = tuple(_compile(rule) for rule in "\n".join((FRAMES, RULES, LATER)).splitlines() if rule)


def plain_phrases(text: str) -> str:
    """The text, which has a space at both ends, with every wording in its plain form."""
    present = set(text.split())
    for needed, pattern, result in COMPILED:
        if any(map(present.isdisjoint, needed)):
            continue
        changed = pattern.sub(result, text)
        if changed != text:
            text, present = changed, set(changed.split())
    return text
