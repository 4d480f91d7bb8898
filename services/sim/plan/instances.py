"""Workers that could be built from the hardware: tensor ranks times pipeline stages that hold the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from services.core.errors import ConfigError
from services.sim.cost_model import NO_TOKENS, CostModel, WithImages
from services.sim.models import ModelSpec
from services.sim.plan.config import GroupConfig
from services.sim.published import published
from services.sim.roofline import DEVICES, USABLE_MEMORY, Device, Roofline, vision_cost

MAX_STAGES = 16
G, T = 1e9, 1e12


@dataclass(frozen=True, slots=True)
class Group:
    """Equal hosts.

    Attributes:
        watts: of one device, with its share of the host.
        price: of one device an hour; None where nobody said.
        measured: step times are published ones, not the datasheet's.
    """

    device: Device
    hosts: int
    watts: float
    price: float | None
    measured: bool

    @property
    def name(self) -> str:
        """Of the device."""
        return self.device.name

    @property
    def devices(self) -> int:
        """In all."""
        return self.hosts * self.device.per_host


def group_of(config: GroupConfig) -> Group:
    """A group with the datasheet's numbers where the configuration has none of its own."""
    own = {
        "flops": config.tflops and config.tflops * T,
        "bytes_per_s": config.memory_gbytes_per_s and config.memory_gbytes_per_s * G,
        "memory_bytes": config.memory_gbytes and config.memory_gbytes * G,
        "link_bytes_per_s": config.link_gbytes_per_s and config.link_gbytes_per_s * G,
    }
    named = {name: value for name, value in own.items() if value is not None}
    known = DEVICES.get(config.device.removesuffix("-capped"))
    if known is not None:
        device = replace(known, name=config.device, per_host=config.per_host, **named)
    else:
        device = Device(config.device, watts=config.watts or 0.0, per_host=config.per_host, **named)
    watts = config.watts or device.watts
    return Group(device, config.hosts, watts, config.price_per_hour, config.coefficients == "published")


@dataclass(frozen=True, slots=True)
class Instance:
    """One worker.

    Attributes:
        group: place of its hardware among the groups.
        tp, stages: ranks of a stage, and stages.
        tokens: that its KV pool holds.
        token_bytes: KV of one token over all ranks.
    """

    group: int
    device: str
    tp: int
    stages: int
    cost: CostModel
    tokens: int
    token_bytes: float

    @property
    def devices(self) -> int:
        """Accelerators that it takes."""
        return self.tp * self.stages

    def blocks(self, block_tokens: int) -> int:
        """KV blocks of its pool."""
        return self.tokens // block_tokens

    def __str__(self) -> str:
        return f"{self.device} tp{self.tp}" + (f" pp{self.stages}" if self.stages > 1 else "")


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker that cannot be built, and why."""

    device: str
    tp: int
    stages: int
    constraint: str
    why: str


def instances(model: ModelSpec, groups: Sequence[Group]) -> tuple[list[Instance], list[Refused]]:
    """Every worker that holds the model: ranks are powers of two inside a host, stages may span hosts of a group."""
    found: list[Instance] = []
    refused: list[Refused] = []
    for place, group in enumerate(groups):
        for tp, stages in _shapes(model, group):
            try:
                found.append(_instance(model, place, group, tp, stages))
            except ConfigError as error:
                constraint = "memory" if error.path == "hardware" else error.path
                refused.append(Refused(group.name, tp, stages, constraint, error.fix))
    return found, refused


def _shapes(model: ModelSpec, group: Group) -> Iterator[tuple[int, int]]:
    """Tensor ranks and stages, smallest first; no more stages than hosts times what a host holds."""
    tp = 1
    while tp <= min(group.device.per_host, model.heads):
        for stages in range(1, MAX_STAGES + 1):
            inside = tp * stages <= group.device.per_host
            if stages <= model.layers and (inside or stages <= group.hosts) and tp * stages <= group.devices:
                yield tp, stages
        tp *= 2


def _instance(model: ModelSpec, place: int, group: Group, tp: int, stages: int) -> Instance:
    analytic = Roofline(model, group.device, tp, stages)  # holds that the weights fit
    cost: CostModel = published(model.name, group.name, tp, stages) if group.measured else analytic
    tokens = analytic.num_blocks(1)
    if tokens < 1:
        raise ConfigError("hardware", group.name, "the weights leave no memory for KV")
    if model.vision is not None:
        cost = WithImages(cost, vision_cost(model, group.device))
    return Instance(place, group.name, tp, stages, cost, tokens, model.kv_token_bytes)


def encoders(model: ModelSpec, groups: Sequence[Group]) -> list[Instance]:
    """Workers of one device that hold the vision tower alone; the rest of their memory is for embeddings.

    Raises:
        ConfigError: the model has none.
    """
    found = []
    for place, group in enumerate(groups):
        cost = WithImages(NO_TOKENS, vision_cost(model, group.device))
        weights = 0.0 if model.vision is None else model.vision.weights * model.weight_bytes
        tokens = int((USABLE_MEMORY * group.device.memory_bytes - weights) / model.kv_token_bytes)
        found.append(Instance(place, group.name, 1, 1, cost, tokens, model.kv_token_bytes))
    return found


def fewest_devices(model: ModelSpec, group: Group) -> int:
    """Devices that hold the weights and some KV."""
    return int(model.total_bytes // (USABLE_MEMORY * group.device.memory_bytes)) + 1
