"""llama.cpp's own HTTP server out of the package xllamacpp, until stdin ends; run by `compare.py` in its environment.

Usage: llama_server.py MODEL.gguf THREADS SLOTS CONTEXT_TOKENS_OF_A_SLOT; the first line on stdout is its URL.
"""

import sys

import xllamacpp

model, threads, slots, context = sys.argv[1], *map(int, sys.argv[2:5])
params = xllamacpp.CommonParams()
params.model.path = model
params.hostnames = ["127.0.0.1"]
params.port = 0  # any free one
params.n_parallel = slots
params.n_ctx = slots * context
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)  # returns when the model is loaded; threads of its own serve
print(server.listening_address, flush=True)
sys.stdin.read()
