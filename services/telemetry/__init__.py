"""What the system says about itself.

metrics.py   every metric, by name
exporter.py  Prometheus text
tracing.py   OpenTelemetry spans from timelines
logs.py      structured logs
console/     the live page
"""
