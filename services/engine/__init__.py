"""The torch engine: everything that touches tensors on a worker.

model_shape.py     sizes and constants of a model (no torch)
hf_config.py       config.json to those (no torch)
checkpoint.py      what a model folder must hold; from a configured path to such a folder (no torch)
fetch_model.py     a model from the Hugging Face Hub, verified (no torch)
gguf_config.py     a GGUF file's metadata to config.json (no torch)
gguf_tokenizer.py  its tokenizer to tokenizer.json (no torch)
gguf_convert.py    the whole file dequantised once into a folder (no torch)
kv_pool.py         pages of K and V
shard.py           which heads and columns a tensor-parallel rank holds
weights.py         checkpoints to tensors
gloo.py            process groups of gloo
rank_group.py      sums and frames between the ranks of a worker
layers.py          linear, norm, gated activation
rope.py            rotary position embedding of every kind
attention.py       paged attention over block tables
input_batch.py     a step's rows as tensors
decode_inputs.py   those of decode steps, changed in place while the same requests go on
model.py           decoder-only transformers of the Llama family
grammar.py         what may follow in outputs of a language (no torch)
penalties.py       changes to logits: penalties, biases, tokens that may not come
filters.py         min-p, top-k, top-p
sampler.py         counter-based sampling
logprobs.py        log-probabilities of output and prompt tokens
model_runner.py    one step of a model
tp_runner.py       one step of a model over several ranks
tiny.py            a random model of a few layers, for tests
timed_runner.py    steps that only take time, for tests of everything around the model
step_progress.py   how far the running step is, for links
checksum.py        sums that find a wrong byte of KV
kv_wire.py         headers, ranges and staging buffers of a link
kv_link.py         KV between two workers over torch.distributed
kv_pairs.py        the same between workers of several ranks
measure.py         times of steps, for the simulator
measure_link.py    times of hand-offs between two processes, for the simulator
measure_beside.py  how much slower steps are beside a busy process, for the simulator
"""
