"""Value types and vocabulary; imports nothing of ours.

Files in reading order: errors (the one error tree), clock, seeds (time and randomness as arguments), heap (garbage
collection), quick (dataclasses made fast), request, batch (what is asked of a runner), peer (what two workers say
about a transfer), output (what a worker tells a front door), lookup (what the request flow and the cache say to each
other), block_news (prefix caches), worker_report (a worker's load), actions (all events and actions), door (what a
front door and a worker say to each other), timeline (a request's life), config, cost (what things cost, in ms),
registry, ports (protocols of everything outside), wire (what crosses processes by actor call), codec, frames (messages
on sockets), decision_log (record and replay), workload (one row of any trace), slo (what a client saw, and whether it
met its targets), report (what a run found, its statistics and JSON).
"""
