"""The services of Triptych: state machines that decide, and the shells that perform what they decide.

core/        shared words: errors, clock, seeds, messages, ports, workload, SLO
kvcache/     block accounting, prefix cache, leases, the hand-off state machine
engine/      torch: KV pool, attention, layers, sampler, model runner, KV link
telemetry/   metrics, tracing, logs, the console
scheduling/  the one scheduler and the worker core that hosts stages
semcache/    the category-aware semantic cache
encode/      images to embeddings
prefill/     prompts to KV cache and first token
decode/      the remaining tokens
draft/       models that guess ahead
router/      which placement serves a request
controller/  scaling, health, role flips
worker/      shell: the one Ray actor class
frontdoor/   shell: the gRPC and HTTP edge
cluster/     composition root on Ray and Ray Serve
sim/         composition root on a virtual clock
cli/         the triptych command
pb/          generated from proto/triptych/v1
"""
