"""The controller: launches, watches, replaces and drains workers.

Files in reading order: config (timeouts), health (who is alive), reconcile (the state machine: wanted against
present), events (what watchers are told), front_doors (which there are), app (the shell in a Serve replica).
"""
