"""The decode stage: what differs from prefill is to accept and to emit.

config.py  intake limits and speculation
intake.py  which offers are granted, and when
stage.py   the state machine
"""
