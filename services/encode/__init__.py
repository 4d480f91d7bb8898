"""The encode stage: images to embeddings.

config.py       batch limits and cache size
embed_cache.py  embeddings kept by content hash
batcher.py      images grouped into steps
stage.py        the state machine
"""
