"""Speaks to workers past the front door: python arm.py <Ray address>, then lines on standard input.

`<actor name> <fault>` sets a fault; `<actor name> report` asks what the worker holds. A process of its own, because Ray
is global; each line is answered by one.
"""

import sys

import ray

from services.core.wire import NAMESPACE

if __name__ == "__main__":
    ray.init(address=sys.argv[1], namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    for line in sys.stdin:
        actor, fault = line.split()
        try:
            worker = ray.get_actor(actor, namespace=NAMESPACE)
            if fault == "report":
                held = ray.get(worker.heartbeat.remote("test"), timeout=10)
                print(held.kv_blocks_used, held.leases, held.transfers, held.tasks, flush=True)
            else:
                ray.get(worker.arm_fault.remote(fault), timeout=10)
                print("ok", flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
