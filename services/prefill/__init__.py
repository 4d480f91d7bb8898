"""The prefill stage: what differs from decode is the offer.

config.py   early or late hand-off
handoff.py  when and to whom KV is offered
stage.py    the state machine
"""
