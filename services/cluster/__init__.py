"""Composition root of the real cluster: Ray and Ray Serve.

Files in reading order: config (the one YAML as models), topology (pools and placements), launch (Ray, worker actors),
app (what `up` deploys), supervise (processes, ports, memory; ending them all), replay (decision logs), __main__ (what
hosts run beside Ray where a cluster has several of them).
"""
