"""From a cluster's configuration and the names of its hardware to the pools of a simulation."""

from __future__ import annotations

from collections.abc import Iterator

from services.cluster.config import ClusterConfig, PoolConfig
from services.cluster.topology import pools
from services.core.config import CostConfig
from services.core.errors import ConfigError
from services.sim.config import MachinesConfig
from services.sim.cost_model import CostModel, fitted, opt_13b_a100
from services.sim.models import ModelSpec, model_named
from services.sim.network import Place
from services.sim.pools import SimPool
from services.sim.roofline import USABLE_MEMORY, Roofline, device_named

FITTED, PUBLISHED = "fitted", "opt-13b-a100"
A100, OPT = "a100-80g", "opt-13b"


def pools_of(config: ClusterConfig, machines: MachinesConfig, cost: CostConfig | None = None) -> tuple[SimPool, ...]:
    """The pools that `triptych up` would start, on the hardware that is named.

    Args:
        cost: coefficients of `fitted` machines; None: the router's.

    Raises:
        ConfigError: hardware or a model that is not known, or a model that does not fit.
    """
    named = {
        "prefill": (machines.prefill, machines.prefill_stages),
        "decode": (machines.decode, machines.decode_stages),
    }
    places = _places()
    found = []
    for name, pool in pools(config).items():
        hardware, stages = named[name]
        found.append(_pool(name, pool, hardware, stages, config, machines, cost or config.router.cost, places))
    return tuple(found)


def _pool(
    name: str,
    pool: PoolConfig,
    hardware: str,
    stages: int,
    config: ClusterConfig,
    machines: MachinesConfig,
    cost: CostConfig,
    places: Iterator[int],
) -> SimPool:
    block_tokens = config.cache.block_size_tokens
    if hardware == FITTED:
        block_bytes = round(_model(config, machines).kv_token_bytes * block_tokens)
        num_blocks = config.cache.memory_bytes // block_bytes
        return SimPool(
            name, (name,), pool.replicas, fitted(cost), num_blocks, block_bytes, pool.tp, threads=pool.threads * pool.tp
        )
    device = device_named(A100 if hardware == PUBLISHED else hardware)
    model = model_named(OPT) if hardware == PUBLISHED else _model(config, machines)
    analytic = Roofline(model, device, pool.tp, stages)  # also holds that the weights fit
    step_cost: CostModel = opt_13b_a100(pool.tp, stages) if hardware == PUBLISHED else analytic
    each = analytic.devices
    if each > device.per_host and stages == 1:
        raise ConfigError(
            f"pools.{name}.tp", pool.tp, f"a host has {device.per_host} devices of {device.name}; use fewer ranks"
        )
    where = tuple(_place(places, min(each, device.per_host), device.per_host) for _ in range(pool.replicas))
    return SimPool(
        name,
        (name,),
        pool.replicas,
        step_cost,
        analytic.num_blocks(block_tokens),
        analytic.block_bytes(block_tokens),
        pool.tp,
        each,
        where,
    )


def _model(config: ClusterConfig, machines: MachinesConfig) -> ModelSpec:
    return model_named(machines.model or config.model.served_name)


def _places() -> Iterator[int]:
    """Numbers of devices, host after host."""
    number = 0
    while True:
        yield number
        number += 1


def _place(numbers: Iterator[int], devices: int, per_host: int) -> Place:
    """The next devices that lie on one host; those left over on the host before stay free."""
    first = next(numbers)
    while first % per_host + devices > per_host:
        first = next(numbers)
    taken = [first, *(next(numbers) for _ in range(devices - 1))]
    return Place(host=first // per_host, devices=tuple(number % per_host for number in taken))


def describe(pool: SimPool) -> str:
    """A pool in words, for reports."""
    what = f"{pool.replicas} x {pool.devices} devices" if pool.devices else f"{pool.replicas} CPU workers"
    memory = f"{pool.num_blocks} blocks of {pool.block_bytes / 2**20:.2f} MiB"
    return (
        f"{pool.name}: {what}, {memory} each ({USABLE_MEMORY:.0%} of memory)"
        if pool.devices
        else (f"{pool.name}: {what}, {memory} each")
    )
