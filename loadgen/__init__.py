"""The load generator: traces and arrivals become timed requests, replayed on a cluster or a simulator and judged."""
