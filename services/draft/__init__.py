"""The draft stage: models that guess ahead for decode workers.

config.py      models and limits
assignment.py  which drafter serves which decode worker
stage.py       the state machine
training.py    drafters adapted to the traffic
"""
