"""Placement and the life of a request; pure, hosted by the front door.

Files in reading order: config (policies by name), view (what is known of the workers), filters, scorers, pickers,
profiles (filter, score, pick), local_prefill (whether a decode worker computes the prompt), running (one request),
retry (what is done again), looking (requests that wait for the cache), flow (place, dispatch, follow, move, end),
recorded (a flow from a decision log's header).
"""
