"""What the system says about itself.

config.py    ports of metrics, level and format of logs
metrics.py   every metric, by name
exporter.py  Prometheus text, and scrape targets
requests.py  from a request's timeline to metrics and a log line
workers.py   from workers' reports to metrics
loop_lag.py  how late the front door's event loop is
logs.py      structured logs
"""
