"""Replanning when the traffic drifts from what the cluster was planned for; off by default.

Files in reading order: config (when, and what for), drift (windows against a reference: pure), machine (drift, plan,
proposal: pure), launch (`triptych plan` as a subprocess), app (the shell beside the controller).
"""
