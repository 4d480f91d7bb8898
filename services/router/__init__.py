"""Placement and the life of a request; pure, hosted by the front door.

Files in reading order: config (policies by name), fleet (workers as columns), view (what is known of them),
estimators, predict (times in ms), prefix_index, decision, choose (the best pair); filters, scorers, pickers, profiles
(filter, score, pick), local_prefill (whether a decode worker computes the prompt); running (one request), encoders
(who encodes its images), placing (places it and learns from it), fair_queue, admission, holding (who is taken, and who
waits), retry (what is done again), looking (requests that wait for the cache), flow (place, dispatch, follow, move,
end), explain (the same for whoever only asks), recorded (a flow from a log's header).
"""
