"""The torch engine: everything that touches tensors on a worker.

kv_pool.py         pages of K and V
attention.py       paged attention over block tables
layers.py          linear, norm, rotary, gated activation
model.py           decoder-only transformers of the Llama family
vision.py          image towers and their projectors
weights.py         checkpoints to tensors
input_batch.py     a step's rows as tensors
sampler.py         counter-based sampling
verifier.py        speculative verification
cuda_graph.py      captured decode steps
model_runner.py    one step of a model
encoder_runner.py  one step of an encoder
kv_link.py         KV between two workers over torch.distributed
"""
