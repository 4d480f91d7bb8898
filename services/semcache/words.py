"""Word lists of the lexical gate: what may differ between two wordings of one question.

A word that is in no list must be in both questions. So a list may only hold words that never decide an answer: no two
of them may be opposites (first, last, open, close, before, after stand nowhere here), and a word that is missing costs
hits, never a wrong one.
"""

from __future__ import annotations

ARTICLES = frozenset("a an the this these those some any such".split())

AUXILIARIES = frozenset(
    """am is are was were be been being do does did will would shall should can could may might must 's 're 've 'd
    'll""".split()
)
BE = frozenset("am is are was were be".split())
DO = frozenset("do does did".split())

PRONOUNS = frozenset("i me myself we us you yourself it its there here one that which who whom whose they them".split())
POSSESSIVES = {"my": "<my>", "mine": "<my>", "our": "<my>", "ours": "<my>", "your": "<your>", "yours": "<your>"}

REQUEST = frozenset(
    """please kindly tell show give explain describe list name suggest recommend provide define definition meaning idea
    ideas thanks thank hi hello hey just really actually exactly way method steps step possible called located
    situated""".split()
)
"""How people ask, whatever they ask for."""

PREPOSITIONS = frozenset("of in on at to into for with from as using via within than and so then".split())
"""What binds words together; dropped only between words, and swapped bindings are noticed."""

DIRECTIONS = {"from": "from", "to": "to", "into": "to", "in": "in", "within": "in", "on": "on", "at": "at"} | {
    "of": "of", "for": "for", "with": "with", "using": "with", "via": "with", "than": "than", "as": "as"
}  # fmt: skip
"""Prepositions by what they bind their word as."""

FRAME = ARTICLES | AUXILIARIES | PRONOUNS | REQUEST | PREPOSITIONS

OPTIONAL = frozenset("take get convert".split())
"""Words that one wording may have beyond the other, as in "how long does it take"; never one for another."""

TIMES = (
    dict.fromkeys(("was", "were", "did", "had"), "past")
    | dict.fromkeys(("will", "'ll", "shall"), "future")
    | dict.fromkeys(("is", "are", "am", "'s", "'re"), "be")
    | dict.fromkeys(("do", "does"), "do")
)
"""When something is, as far as the first auxiliary tells."""
SAME_TIME = frozenset({("be", "do"), ("do", "future"), ("be", "none"), ("do", "none"), ("none", "past")})

MODALS = dict.fromkeys(("can", "could", "may", "might", "possible"), "may") | dict.fromkeys(
    ("must", "should", "ought"), "must"
)

NEGATIONS = frozenset(
    """not no never none nobody nothing nor neither without cannot cant dont doesnt didnt wont isnt arent wasnt werent
    shouldnt couldnt wouldnt hasnt havent hadnt mustnt except excluding unless avoid lack lacks lacking n't""".split()
)

NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen twenty""".split()
    )
    if value != 1  # "one" is a pronoun as often
}

PHRASES = (
    ("i would like to know", ""),
    ("i 'd like to know", ""),
    ("i want to know", ""),
    ("i need to know", ""),
    ("do you know", ""),
    ("let me know", ""),
    ("i would like", "please"),
    ("i 'd like", "please"),
    ("i am looking for", "please"),
    ("i 'm looking for", "please"),
    ("i want", "please"),
    ("i need", "please"),
    ("can you", "please"),
    ("could you", "please"),
    ("would you", "please"),
    ("tell me about", "what is"),
    ("information about", "what is"),
    ("information on", "what is"),
    ("best way", "way"),
    ("easiest way", "way"),
    ("good way", "way"),
    ("the meaning of", ""),
    ("which city is the capital", "what is the capital"),
    ("capital city", "capital"),
    ("what time", "when"),
    ("what date", "when"),
    ("what day", "when"),
    ("what year", "when"),
    ("which year", "when"),
    ("what is the reason", "why"),
    ("what are the reasons", "why"),
    ("how come", "why"),
    ("what place", "where"),
    ("what are the steps to", "how to"),
    ("what is the way to", "how to"),
    ("how much is", "what is"),
    ("how much are", "what is"),
    ("what is the number of", "how many"),
    ("is it possible to", "can i"),
    ("right now", "now"),
    ("at the moment", "now"),
    ("less than", "under"),
    ("fewer than", "under"),
    ("more than", "over"),
    ("most recent", "last"),
    ("turn on", "enable"),
    ("switch on", "enable"),
    ("turn off", "disable"),
    ("switch off", "disable"),
    ("set up", "setup"),
    ("log in", "login"),
    ("sign in", "login"),
    ("log out", "logout"),
    ("sign out", "logout"),
)
"""Wordings of two and more words and their plain form, longest first where one begins another."""

SAME = (
    "big large huge",
    "begin start commence",
    "buy purchase",
    "car automobile",
    "create build make",
    "cost price",
    "current currently now",
    "delete remove erase",
    "fast quick rapid",
    "fix repair",
    "gift present",
    "invent invention inventor",
    "learn study",
    "movie film",
    "phone telephone",
    "photo picture image",
    "allow permit",
    "shut close",
    "sick ill",
    "store shop",
    "transform change",
    "win winner won receive received",
    "write writing wrote written author",
    "discover discovered discoverer",
    "dense denser density",
    "tall taller height high",
    "deep deeper depth",
    "old older age",
    "heavy heavier weigh weight weighs",
)
"""Words of one meaning; the first stands for all."""

DEGREES = frozenset("many much long old far tall high deep big large heavy fast often soon hot cold wide".split())
"""After "how" they ask for a quantity of that kind, and not for a way."""

QUESTION_WORDS = frozenset("who whom whose when where why how what which".split())
