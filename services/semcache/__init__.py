"""The category-aware semantic cache: thresholds, TTLs and quotas by category.

config.py     categories and their limits
key.py        what makes two requests comparable
control.py    what a client may ask of the cache
category.py   a request's category
exemplars.py  questions that categories are learned from
policy.py     what holds for a request, under load too
gate.py       when to look at all, and what may be kept
words.py      how people ask, forms of one word
stem.py       words without their endings
concepts.py   words of one meaning, relations
asking.py     the sentence that asks, first
frames.py     what surrounds the thing asked for
phrases.py    wordings of several words
reading.py    what the gate sees of a question
strict.py     what plain words no longer show, and what still decides
rivals.py     what no closer look may overrule
lexical.py    whether two questions may have the same answer
index.py      entries, quotas, eviction
cache.py      both tiers: find, then keep
flights.py    equal requests under way
shadow.py     whether two answers say the same
operate.py    explanations and invalidation for operators
ann.py        nearest vectors
store.py      answers that front doors share in Redis
embedder.py   text to vector; two texts to a judgement
training.py   how the judge learns from pairs/
"""
