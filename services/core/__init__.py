"""What every other package speaks: messages, errors, time, randomness, configuration, ports.

errors.py        the one error tree, with status codes
clock.py         wall and virtual clocks; the only import of time
seeds.py         named random streams; the only import of random
request.py       a request and its sampling parameters
batch.py         what one engine step runs and returns
actions.py       events and actions of the state machines
config.py        shared configuration models
ports.py         protocols of outside things
registry.py      policies by name
cost.py          predicted time of a step, a transfer, a placement
workload.py      timed requests, from traces or synthesis
timeline.py      a request's life as marks
slo.py           targets and their judgement
report.py        percentiles and goodput
decision_log.py  events and actions on record, for replay
"""
