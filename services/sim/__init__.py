"""Composition root of the simulator: the same decisions on a cost model and a virtual clock.

event_queue.py  a heap by time and sequence
cost_model.py   step time from batch shape
network.py      transfer time under shared bandwidth
workers.py      performs any stage's actions
faults.py       crash, stall, partition, slow link
cluster.py      the real flow, stages and controller on simulated devices
search.py       the planner
"""
