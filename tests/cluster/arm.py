"""Sets a fault in a worker: python arm.py <Ray address> <actor name> <fault>. A process of its own: Ray is global."""

import sys

import ray

from services.core.wire import NAMESPACE

if __name__ == "__main__":
    address, actor, fault = sys.argv[1:]
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    ray.get(ray.get_actor(actor, namespace=NAMESPACE).arm_fault.remote(fault), timeout=10)
