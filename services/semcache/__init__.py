"""The category-aware semantic cache: thresholds, TTLs and quotas by category.

config.py    categories and their limits
key.py       what makes two requests comparable
category.py  a request's category
policy.py    hit, store, evict
gate.py      when to look at all
index.py     exact nearest neighbours in memory
ann.py       approximate nearest neighbours
store.py     entries in process or in Redis
embedder.py  text to vector
"""
