"""What the system says about itself.

config.py    ports of metrics, traces, level and format of logs
metrics.py   every metric, by name
exporter.py  Prometheus text, and scrape targets
tracing.py   a request's spans and their place in the client's trace
otlp.py      traces to a collector
requests.py  from a request's timeline to metrics and a log line
recent.py    the last minute's requests, for `triptych top`
queries.py   PromQL of those metrics
alerts.py    SLO burn rates and other alerts
dashboards.py Grafana's pictures
workers.py   from workers' reports to metrics
loop_lag.py  how late the front door's event loop is
logs.py      structured logs
decisions.py files of decision logs
"""
