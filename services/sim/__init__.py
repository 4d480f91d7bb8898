"""Composition root of the simulator: the same decisions on a cost model and a virtual clock.

config.py        delays, wires, names of hardware
event_queue.py   a heap by time and sequence: the clock's engine
cost_model.py    step time from a step's shape: fitted and published coefficients
fit.py           coefficients from measured times
models.py        sizes of models
speculation.py   steps that verify guesses, by their measured acceptance rate
roofline.py      step time of any model on any device, from datasheets
network.py       transfers at fair shares of the links on their way
cores.py         cores of a host that its workers share
reports.py       what workers say of themselves, made when someone reads it
links.py         KV links: both ends of a part meet and its bytes take their time
body.py          what a worker's process is made of
workers.py       one worker: performs its core's actions, passes over steady decode steps
requests.py      from a row of a workload to a request
door.py          a front door: hosts the request flow and keeps what clients read
doors.py         all front doors, and which one a request comes to
supervisor.py    the controller: starts, asks after and ends processes
faults.py        crash, stall, partition, slow link
pools.py         what a cluster is made of, and what its run does
outcome.py       samples, and what every worker did
cluster.py       the real flow, cores and controller, and all between them
machines.py      from a cluster's configuration to pools
chrome_trace.py  a run for Perfetto
published.py     step times that papers measured
plan/            the planner's pure half: workers alone, bounds, placements, reasons
search.py        the planner: units in parallel processes, and whole clusters of the best
"""
