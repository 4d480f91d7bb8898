"""Composition root of the real cluster: Ray and Ray Serve.

config.py     the one YAML as models
topology.py   pools and placements
launch.py     actors made and adopted
supervise.py  up, drain, down
app.py        what up starts
"""
