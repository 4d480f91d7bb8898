"""Step times that papers measured, as coefficients: what a plan is computed with where hardware was profiled.

OPT-13B on A100 is in `cost_model.py`. Here: BLOOM-176B and Llama-2-70B on eight devices, fitted to the 1,260
measurements that Splitwise's authors published (github.com/Mutinifni/splitwise-sim, data/perf_model.csv, MIT licence;
Patel et al., ISCA 2024): medians of the runs with one prompt of 128 to 8,192 tokens, and of 1 to 64 decodes, least
squares of relative errors. The worst of prefill is 20 % (prompts of 4,096 tokens), of decode 6 %. A capped H100 has
half of its power; its machine takes 70 %.
"""

from __future__ import annotations

from services.core.errors import ConfigError
from services.sim.cost_model import CostModel, FittedCost, Linear, opt_13b_a100

CAPPED = "h100-80g-capped"
SPLITWISE_TP = 8
# (model, device) -> prefill (fixed, each token, each squared length), decode (fixed, each token looked at, each row)
SPLITWISE = {
    ("bloom-176b", "a100-80g"): ((53.0347, 0.195553, 2.8441e-05), (47.5697, 0.000440175, 0.432366)),
    ("bloom-176b", "h100-80g"): ((33.5388, 0.0804978, 1.40321e-05), (35.3983, 0.000217952, 0.273799)),
    ("bloom-176b", CAPPED): ((43.6004, 0.104647, 1.82417e-05), (35.3983, 0.000217952, 0.273799)),
    ("llama-2-70b", "a100-80g"): ((48.8157, 0.0867335, 1.25902e-05), (43.7166, 0.000403844, 0.159993)),
    ("llama-2-70b", "h100-80g"): ((46.3968, 0.0217554, 1.05225e-05), (29.4638, 0.000237546, 0.176866)),
    ("llama-2-70b", CAPPED): ((60.3159, 0.0282821, 1.36792e-05), (29.4638, 0.000237546, 0.176866)),
}


def published(model: str, device: str, tp: int, stages: int) -> CostModel:
    """What was measured of a model on a device.

    Raises:
        ConfigError: nobody measured that; the message names what was.
    """
    if (model, device) == ("opt-13b", "a100-80g"):
        return opt_13b_a100(tp, stages)
    found = SPLITWISE.get((model, device))
    if found is None:
        known = ", ".join(f"{name} on {where}" for name, where in [("opt-13b", "a100-80g"), *SPLITWISE])
        raise ConfigError("coefficients", f"{model} on {device}", f"published are {known}; or write roofline")
    if tp != SPLITWISE_TP or stages != 1:
        raise ConfigError("tp", f"{tp} x {stages}", f"{model} was measured with {SPLITWISE_TP} ranks and one stage")
    (fixed, token, square), (step, context, row) = found
    return FittedCost(Linear(fixed, token, 2 * square), Linear(step, row, context))
