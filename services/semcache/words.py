"""Word lists of the lexical gate: how people ask, and forms of one word.

A word that is in no list must be in both questions. So a list of words that are passed over may only hold words that
never decide an answer, and a word that is missing costs hits, never a wrong one.
"""

from __future__ import annotations

ARTICLES = frozenset("a an the this these those some any such".split())

AUXILIARIES = frozenset(
    "am is are was were be been being do does did will would shall should can could may might must".split()
)
BE = frozenset("am is are was were be been being".split())
DO = frozenset("do does did".split())

PRONOUNS = frozenset("i me myself we us you yourself it its there here one that which who whom whose they them".split())
POSSESSIVES = {"my": "<my>", "mine": "<my>", "our": "<my>", "ours": "<my>", "your": "<your>", "yours": "<your>"}

REQUEST = frozenset(
    """please kindly definition idea thank hi hello hey just really actually exactly basically simply precisely
    locate situate""".split()
)
"""How people ask, whatever they ask for."""
ORDERS = frozenset("tell show explain describe list name suggest recommend define clarify give".split())
"""Likewise, where they are said to who answers: not in "How do I list ..."."""

MARKERS = {"from": "from", "to": "to", "into": "to", "in": "in", "within": "in", "on": "on", "at": "at"} | {
    "of": "of", "for": "for", "with": "with", "using": "with", "via": "with", "than": "than", "as": "as"
}  # fmt: skip
"""Prepositions by what they bind their words as; changed bindings are noticed."""
PREPOSITIONS = frozenset((*MARKERS, "and", "so", "then"))
"""Dropped between words."""

FRAME = ARTICLES | AUXILIARIES | PRONOUNS | REQUEST | PREPOSITIONS

TIMES = (
    dict.fromkeys(("was", "were", "did", "had"), "past")
    | dict.fromkeys(("will", "shall"), "future")
    | dict.fromkeys(("is", "are", "am"), "be")
    | dict.fromkeys(("do", "does"), "do")
)
"""When something is, as far as the first auxiliary tells."""
SAME_TIME = frozenset({("be", "do"), ("do", "future"), ("be", "none"), ("do", "none"), ("none", "past")}) | frozenset(
    {
        ("be", "modal"),
        ("do", "modal"),
        ("modal", "none"),
        ("be", "does"),
        ("do", "does"),
        ("does", "none"),
        ("does", "modal"),
    }
)

MODALS = dict.fromkeys(("can", "could", "may", "might", "possible"), "may") | {
    "must": "must", "should": "should", "ought": "should", "would": "would"
}  # fmt: skip

NEGATIONS = frozenset(
    """not no never none nobody nothing nor neither without cannot cant dont doesnt didnt wont isnt arent wasnt werent
    shouldnt couldnt wouldnt hasnt havent hadnt mustnt except excluding unless avoid lack lacks lacking""".split()
)

NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen twenty""".split()
    )
    if value != 1  # "one" is a pronoun as often
}

DEMONYMS = {
    each.split(":")[0]: each.split(":")[1]
    for each in """african:africa asian:asia australian:australia austrian:austria brazilian:brazil canadian:canada
    mexican:mexico argentinian:argentina chilean:chile peruvian:peru colombian:colombia cuban:cuba egyptian:egypt
    moroccan:morocco nigerian:nigeria kenyan:kenya indian:india belgian:belgium israeli:israel iranian:iran iraqi:iraq
    austrians:austria australians:australia canadians:canada brazilians:brazil mexicans:mexico africans:africa
    belgians:belgium egyptians:egypt nigerians:nigeria kenyans:kenya chileans:chile peruvians:peru""".split()
}
"""Of countries and continents whose adjective is no language and no part of a longer name that differs."""

MONTHS = frozenset("january february march april may june july august september october november december".split())

QUESTION_WORDS = frozenset("who whom whose when where why how what which".split())
RELATIVES = frozenset("who whom whose what which".split())
"""Of the question words those that decide nothing once another one has told what is asked for."""

IRREGULAR = {
    form: forms.split()[0]
    for forms in """be been being|begin began begun|bring brought|build built|buy bought|catch caught
    choose chose chosen|come came|cost costs|die died dying|do done|draw drawn drew
    drink drank drunk|drive drove driven|eat ate eaten|fly flew flown|forget forgot forgotten
    get got gotten|give gave given|go went gone goes going|become became becoming|grow grew grown
    have has had having|hold held|keep kept|know knew known|lead led|lose lost|make made|meet met
    pay paid|run ran|say said|sell sold|send sent|sing sang sung|speak spoke spoken|spend spent
    swim swam swum|take took taken|teach taught|tell told|think thought|throw threw thrown
    understand understood|use used uses|wear wore worn|win won|write wrote written
    bear bore born|sink sank sunk|fall fell fallen|mean means meant|break broke broken|steal stole stolen
    hide hid hidden|shake shook shaken|strike struck|light lit|deal dealt|feel felt
    hang hung|leave left|lend lent|let|read|ride rode ridden|sleep slept|stand stood|stick stuck|tear tore torn
    wake woke woken|bleed bled|blow blew blown
    virus viruses|bacterium bacteria|cactus cacti|browse browsing browsed|reimburse reimbursing reimbursed
    graduate graduating graduated|descale descaling descaled|bake baking baked|require requiring required
    child children|foot feet|man men|person people persons|tooth teeth|woman women
    mouse mice|life lifes|create created creating creates|delete deleted deleting
    complete completed completing|invite invited inviting|write writing
    develop developed developing|lie lay lain|hear heard|rise rose risen
    freeze froze frozen freezing|monday mondays|tuesday tuesdays|wednesday wednesdays
    thursday thursdays|friday fridays|saturday saturdays|sunday sundays|gas gases|during|evening
    morning|king|ring|spring|string|thing|wing|ceiling|anything|something|everything|nothing|red
    bed|need needed needing|speed|feed fed|seed|breed|hundred|indeed|exceed exceeded|news|series
    species|lens|canvas|plus|minus|versus|always|perhaps|sometimes|means|physics|mathematics
    |glasses|customs|goods|damages|contents|arms|spectacles|savings|earnings|economics|politics|statistics|shorts
    |premises|proceeds|remains|building buildings|meeting meetings|wedding weddings|painting paintings|training
    |boarding|housing|clothing|bonding|hearing hearings|booking bookings|parking|shipping|drawing drawings|saving
    |bus buses|charge charged charging|reset|upset|add added adds adding""".replace("\n", "|").split("|")
    if forms.strip()
    for form in forms.split()
}
