"""The planner's pure half: which workers, how many, where, and why.

config.py      hardware: `pool.yaml`
queueing.py    M/D/1 formulas
workload.py    a trace in short, and arrivals at any rate
instances.py   workers that hold the model
solo.py        one worker alone, with its real core
goodput.py     the highest rate that one worker keeps
bounds.py      what it can take at the very most, without a simulation
choose.py      what is simulated, and which placements follow
placement.py   colocated, split, in a host, mixed pool
validate.py    a placement as a whole simulated cluster
reasons.py     why not, and why
written.py     the cluster's YAML and the document of a plan
"""
