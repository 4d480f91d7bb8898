"""Which placement serves a request: cache, admission, filter, score, pick.

config.py      profiles and weights
view.py        an immutable picture of the cluster
predict.py     milliseconds of a placement
admission.py   admit, degrade or reject with a reason
filters.py     candidates that cannot serve drop out
scorers.py     what a candidate costs
pickers.py     one candidate of many
profiles.py    filter, score, pick per stage
flow.py        the state machine of one request
"""
