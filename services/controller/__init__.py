"""The controller: launches, watches, scales, flips and drains workers.

config.py      targets and limits
load.py        smoothed load of a pool
health.py      who is alive
autoscaler.py  how many replicas a pool needs
balancer.py    which worker flips its role
reconcile.py   the state machine: wanted against present
"""
