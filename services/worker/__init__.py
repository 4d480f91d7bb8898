"""Shell: the one Ray actor class, whatever stages it hosts.

config.py         threads, ports, heartbeats
actor.py          the actor
step_thread.py    the thread that runs torch
links.py          one link thread per peer
subscriptions.py  token streams to front doors, under leases
performer.py      performs the actions of the stages
"""
