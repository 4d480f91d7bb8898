"""The prefill stage: what differs from decode is the offer.

config.py   early or late hand-off
handoff.py  when and to whom KV is offered
images.py   embeddings that prompts wait for, regrouped in image order
stage.py    the state machine
"""
