"""The category-aware semantic cache: thresholds, TTLs and quotas by category.

config.py     categories and their limits
key.py        what makes two requests comparable
control.py    what a client may ask of the cache
category.py   a request's category
exemplars.py  questions that categories are learned from
policy.py     what holds for a request, under load too
gate.py       when to look at all, and what may be kept
words.py      words that may differ between two wordings
lexical.py    whether two questions may have the same answer
index.py      entries, quotas, eviction
cache.py      both tiers: find, then keep
ann.py        nearest vectors
embedder.py   text to vector
"""
