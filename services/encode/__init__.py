"""The encode stage: images to embeddings.

config.py       batch limits and sizes
embed_cache.py  embeddings by content hash, in blocks of the worker's pool
batcher.py      images grouped into steps
stage.py        the state machine: shards of requests, steps, hand-offs
"""
