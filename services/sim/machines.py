"""From a cluster's configuration and the names of its hardware to the pools of a simulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from services.cluster.config import ClusterConfig, PoolConfig
from services.cluster.topology import pools
from services.core.config import CostConfig
from services.core.errors import ConfigError
from services.sim.config import MachinesConfig, SimConfig, WireConfig
from services.sim.cost_model import NO_TOKENS, CostModel, Linear, WithImages, fitted, opt_13b_a100
from services.sim.models import ModelSpec, model_named
from services.sim.network import Place
from services.sim.pools import SimPool
from services.sim.roofline import USABLE_MEMORY, Roofline, device_named, vision_cost

FITTED, PUBLISHED = "fitted", "opt-13b-a100"
A100, OPT = "a100-80g", "opt-13b"
NO_TIME_MS = 1e-6
"""Of a token's KV, where a hand-off takes the same time for any number of them."""


def image_tokens(config: ClusterConfig, machines: MachinesConfig, asked: int | None) -> int | None:
    """Tokens that an image adds to its prompt; None: requests are text alone.

    Args:
        asked: so many, for a model whose vision tower is not known.

    Raises:
        ConfigError: another number than the model's tower makes, or encode workers and nothing for them to encode.
    """
    encoders, hardware = config.pools.encode.replicas, _encode_hardware(machines)
    if machines.encode is not None and not encoders:
        raise ConfigError(
            "--hardware",
            f"encode={hardware}",
            "there are no encode workers; set pools.encode.replicas, or leave it out",
        )
    text = hardware == PUBLISHED
    model = None if text else _model(config, machines)
    vision = None if model is None else model.vision
    if vision is not None and asked not in (None, vision.tokens):
        name = "" if model is None else model.name
        raise ConfigError("--image-tokens", asked, f"{name} makes {vision.tokens} tokens of an image; leave it out")
    if vision is None and asked is not None and hardware != FITTED:
        raise ConfigError(
            "--image-tokens",
            asked,
            f"{hardware} has no times of images without a vision tower; name a --model with one",
        )
    found = asked if vision is None else vision.tokens
    if found is None and encoders:
        raise ConfigError(
            "pools.encode.replicas",
            encoders,
            f"{OPT if text else machines.model or config.model.served_name} reads text alone; name a --model with a "
            "vision tower, give --image-tokens with fitted hardware, or write 0",
        )
    return found


def _encode_hardware(machines: MachinesConfig) -> str:
    return machines.prefill if machines.encode is None else machines.encode


def pools_of(
    config: ClusterConfig, machines: MachinesConfig, cost: CostConfig | None = None, images: bool = False
) -> tuple[SimPool, ...]:
    """The pools that `triptych up` would start, on the hardware that is named, and those that encode `images`.

    Where no workers encode alone, those of prompts encode, too, as in a plan.

    Args:
        cost: coefficients of `fitted` machines; None: the router's.

    Raises:
        ConfigError: hardware or a model that is not known, or a model that does not fit.
    """
    cost, apart = cost or config.router.cost, config.pools.encode.replicas
    named = {
        "prefill": (machines.prefill, machines.prefill_stages),
        "decode": (machines.decode, machines.decode_stages),
    }
    places = _places()
    found = [_encoders(config, machines, cost, places)] if images and apart else []
    for name, pool in pools(config).items():
        hardware, stages = named[name]
        found.append(_pool(name, pool, hardware, stages, config, machines, cost, places))
    if not images or apart:
        return tuple(found)
    return tuple(_encodes_too(each, config, machines, cost) if "prefill" in each.roles else each for each in found)


def wires_of(
    config: ClusterConfig, sim: SimConfig, pools: tuple[SimPool, ...], cost: CostConfig | None = None
) -> SimConfig:
    """The same with hand-offs between `fitted` workers, which share a host, as long as their coefficients say.

    Args:
        pools, cost: what `pools_of` made, and of what.
    """
    cost = cost or config.router.cost
    if (sim.machines.prefill, sim.machines.decode) != (FITTED, FITTED):
        return sim
    token_bytes = pools[-1].block_bytes / config.cache.block_size_tokens
    slowest_ms = max(cost.transfer_token_ms, NO_TIME_MS)
    host = WireConfig(latency_us=1000 * cost.transfer_ms, gbytes_per_s=token_bytes / slowest_ms / 1e6)
    return sim.model_copy(update={"wires": sim.wires.model_copy(update={"host": host})})


def _encode_cost(config: ClusterConfig, machines: MachinesConfig, hardware: str, cost: CostConfig) -> Linear:
    if hardware == FITTED:
        return Linear(cost.encode_ms, cost.encode_token_ms, 0.0)
    return vision_cost(_model(config, machines), device_named(hardware))


def _encodes_too(pool: SimPool, config: ClusterConfig, machines: MachinesConfig, cost: CostConfig) -> SimPool:
    encode = _encode_cost(config, machines, machines.prefill, cost)
    return replace(pool, roles=("encode", *pool.roles), cost=WithImages(pool.cost, encode))


def _encoders(config: ClusterConfig, machines: MachinesConfig, cost: CostConfig, places: Iterator[int]) -> SimPool:
    """Workers of one device that hold the vision tower alone; the rest of their memory is for embeddings."""
    hardware, pool, model = _encode_hardware(machines), config.pools.encode, _model(config, machines)
    block_bytes = round(model.kv_token_bytes * config.cache.block_size_tokens)
    encode = WithImages(NO_TOKENS, _encode_cost(config, machines, hardware, cost))
    if hardware == FITTED:
        blocks = config.cache.memory_bytes // block_bytes
        return SimPool("encode", ("encode",), pool.replicas, encode, blocks, block_bytes, threads=pool.threads)
    device = device_named(hardware)
    weights = 0 if model.vision is None else model.vision.weights * model.weight_bytes
    blocks = int((USABLE_MEMORY * device.memory_bytes - weights) // block_bytes)
    where = tuple(_place(places, 1, device.per_host) for _ in range(pool.replicas))
    return SimPool("encode", ("encode",), pool.replicas, encode, blocks, block_bytes, 1, 1, where)


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
