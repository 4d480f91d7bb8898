"""The controller: launches, watches, replaces and drains workers.

Files in reading order: config (timeouts), health (who is alive), reconcile (the state machine: wanted against
present), recorded (it in decision logs), events (what watchers are told), front_doors (which there are), replan (a new
plan when the traffic drifts), app (the shell in a Serve replica).
"""
