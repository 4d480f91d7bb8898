"""One scheduler for prefill chunks, decode rows and verify rows.

config.py        token budget, order, limits
waiting.py       the queue and its orders
token_budget.py  how many tokens a step may take
preemption.py    whom to evict when blocks run out
decode_group.py  the requests that decode, kept from step to step
decoding.py      who decodes, as requests come and go between steps
progress.py      what the scheduler tells of its requests
mixed.py         the scheduler
outputs.py       a step's tokens and bad ends, for each front door
lookahead.py     how many tokens to speculate
proposers/       sources of speculative tokens
host.py          WorkerCore: any set of stages over one KV pool
"""
