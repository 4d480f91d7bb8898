"""Analytic cost of a model on a device, from datasheets: each part of a step is as slow as its slower bound.

    linear layers   max(2 x active weights x tokens / FLOP/s, weights read / bytes/s)
    attention       max(4 x heads x head_dim x layers x pairs / FLOP/s, KV read / bytes/s), chunks and decodes apart
    tensor parallel two all-reduces a layer, as a ring: 2 (n - 1) / n of the activations over the link, and a latency
    pipeline        equal stages; activations pass from one to the next

All of them divided by the tensor parallelism, at a share of the peak that devices reach (Williams et al., Roofline,
2009). The shares are those at which the datasheet's A100 meets what DistServe's authors measured of OPT-13B on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from services.core.errors import ConfigError
from services.sim.cost_model import Linear, StepShape, StepTime, nanoseconds, nanoseconds_each
from services.sim.models import ModelSpec

REACHED_FLOPS = 0.65
REACHED_BANDWIDTH = 0.65
REACHED_BY_VISION = 0.065
"""The same of a vision tower, what makes slices of pictures included: 43 ms a slice of 1,024 patches on an A100. EPD's
table 1 has 3.08 s of 64 frames of one slice and 0.42 s of 8 (Singh et al., 2025, MiniCPM-V): 47.5 ms a frame, 4 of them
the prompt's 64 tokens. Its table 4 says the same: 42 to 46 ms for each of the ten slices of a large image."""
LAYER_OVERHEAD_S = 20e-6
"""Launches of a layer's kernels."""
ALL_REDUCE_LATENCY_S = 15e-6
HOP_LATENCY_S = 20e-6
USABLE_MEMORY = 0.9
"""Share of a device's memory for weights and KV; the rest is for activations and the runtime."""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, or one CPU socket, by its datasheet.

    Attributes:
        flops: dense bfloat16 operations a second, without sparsity.
        bytes_per_s: of its memory.
        memory_bytes: of it.
        link_bytes_per_s: to its neighbours in a host, in each direction.
        watts: highest power.
        per_host: devices of one host.
        price_per_hour: what one costs, in any unit; 0 where nobody said.
    """

    name: str
    flops: float
    bytes_per_s: float
    memory_bytes: float
    link_bytes_per_s: float
    watts: float
    per_host: int = 8
    price_per_hour: float = 0.0


T, G = 1e12, 1e9
DEVICES = {
    device.name: device
    for device in (
        # NVIDIA A100 80GB SXM datasheet (2021): 312 TFLOPS bf16, 2,039 GB/s, NVLink 600 GB/s in both directions, 400 W
        Device("a100-80g", 312 * T, 2039 * G, 80 * G, 300 * G, 400),
        # NVIDIA H100 SXM datasheet (2023): 1,979 TFLOPS bf16 with sparsity, 3.35 TB/s, 80 GB, NVLink 900 GB/s, 700 W
        Device("h100-80g", 989.5 * T, 3350 * G, 80 * G, 450 * G, 700),
        # NVIDIA H200 SXM datasheet (2024): as H100 with 141 GB at 4.8 TB/s
        Device("h200-141g", 989.5 * T, 4800 * G, 141 * G, 450 * G, 700),
        # NVIDIA DGX B200 datasheet (2024), an eighth of it: 1,440 GB at 64 TB/s, NVLink 14.4 TB/s; bf16 4.5 PFLOPS with
        # sparsity a GPU (Blackwell architecture brief); 1,000 W
        Device("b200-180g", 2250 * T, 8000 * G, 180 * G, 900 * G, 1000),
        # NVIDIA L40S datasheet (2023): 733 TFLOPS bf16 with sparsity, 864 GB/s, 48 GB, PCIe 4.0 x16, 350 W
        Device("l40s-48g", 362 * T, 864 * G, 48 * G, 32 * G, 350),
        # AMD Instinct MI300X datasheet (2023): 1,307.4 TFLOPS bf16, 5.3 TB/s, 192 GB, 7 links of 128 GB/s, 750 W
        Device("mi300x-192g", 1307.4 * T, 5300 * G, 192 * G, 448 * G, 750),
        # Intel Xeon Platinum 8480+ (Intel ARK): 56 cores at 2.0 GHz, AMX 2,048 bf16 operations a cycle and core, eight
        # channels DDR5-4800, 350 W; a host of two sockets with 256 GB each, joined by UPI (3 links of 16 GT/s)
        Device("xeon-8480", 229 * T, 307.2 * G, 256 * G, 48 * G, 350, per_host=2),
    )
}


def device_named(name: str) -> Device:
    """A device of the table.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in DEVICES:
        raise ConfigError("hardware", name, f"known are {', '.join(DEVICES)}")
    return DEVICES[name]


@dataclass(frozen=True)
class Roofline:
    """Step times of `model` on tp x stages of `device`.

    Raises:
        ConfigError: more ranks than KV heads can be spread over, or the weights do not fit.
    """

    model: ModelSpec
    device: Device
    tp: int = 1
    stages: int = 1

    def __post_init__(self) -> None:
        model, device = self.model, self.device
        if self.tp < 1 or self.tp > model.heads:
            raise ConfigError("tp", self.tp, f"{model.name} has {model.heads} heads; use 1 to {model.heads}")
        if self.stages < 1 or self.stages > model.layers:
            raise ConfigError("pp", self.stages, f"{model.name} has {model.layers} layers; use 1 to {model.layers}")
        usable = USABLE_MEMORY * device.memory_bytes
        if model.total_bytes >= usable * self.devices:
            least = int(model.total_bytes // usable) + 1
            raise ConfigError(
                "hardware",
                f"{self.devices} x {device.name}",
                f"{model.name} takes {model.total_bytes / 1e9:.1f} GB and {USABLE_MEMORY:.0%} of each device's "
                f"{device.memory_bytes / 1e9:.0f} GB can be used; use at least {least} devices (tp x pp)",
            )

    @property
    def devices(self) -> int:
        """Accelerators of one worker."""
        return self.tp * self.stages

    def num_blocks(self, block_tokens: int) -> int:
        """KV blocks that fit beside the weights."""
        left = USABLE_MEMORY * self.device.memory_bytes * self.devices - self.model.total_bytes
        return int(left // self.block_bytes(block_tokens))

    def block_bytes(self, block_tokens: int) -> int:
        """KV of one block, over all ranks and stages."""
        return round(self.model.kv_token_bytes * block_tokens)

    # --- steps --------------------------------------------------------------------------------------------------

    def step(self, shape: StepShape) -> StepTime:
        """Time of any step; a pipeline works on as many groups of it as it has stages."""
        groups = self.stages if shape.rows else 1
        share = 1 / groups
        ms = self._base_ms((shape.tokens + shape.rows) * share, (shape.rows + shape.chunks) * share)
        if shape.tokens:
            ms = ms + self._chunks_ms(shape.pairs * share, (shape.cached + shape.tokens) * share)
        if shape.rows:
            return StepTime(nanoseconds(ms + float(shape.context) / groups * self._context_ms))
        busy = nanoseconds(ms / self.stages)
        return StepTime(busy, busy * (self.stages - 1))

    def decode_ns(self, rows: int, context: int, count: int) -> NDArray[np.int64]:
        """Times of `count` steps of the same decodes, whose context grows by `rows` each step: int64, [count]."""
        share = 1 / self.stages
        base_ms = self._base_ms(rows * share, rows * share)
        contexts = context + rows * np.arange(count, dtype=np.float64)
        return nanoseconds_each(base_ms + contexts / self.stages * self._context_ms)

    @cached_property
    def _flops(self) -> float:
        return self.device.flops * REACHED_FLOPS * self.tp

    @cached_property
    def _bandwidth(self) -> float:
        return self.device.bytes_per_s * REACHED_BANDWIDTH * self.tp

    @cached_property
    def _pair_flops(self) -> float:
        """Operations of one token that looks at one other: scores and weighted values."""
        return 4.0 * self.model.layers * self.model.heads * self.model.head_dim

    @cached_property
    def _context_ms(self) -> float:
        """Time of each token that a decode looks at."""
        return 1e3 * max(self._pair_flops / self._flops, self.model.kv_token_bytes / self._bandwidth)

    def _chunks_ms(self, pairs: float, read: float) -> float:
        """Attention of chunks."""
        return 1e3 * max(pairs * self._pair_flops / self._flops, read * self.model.kv_token_bytes / self._bandwidth)

    def _base_ms(self, tokens: float, sampled: float) -> float:
        """Everything whose time does not follow from what tokens look at."""
        model = self.model
        head = model.vocab * model.hidden
        linear_s = max(
            2.0 * (model.active_weights * tokens + head * sampled) / self._flops,
            (model.read_weights(tokens) + head) * model.weight_bytes / self._bandwidth,
        )
        activations = tokens * model.hidden * model.weight_bytes
        other_s = model.layers * LAYER_OVERHEAD_S
        if self.tp > 1:
            ring = 2 * (self.tp - 1) / self.tp * activations / self.device.link_bytes_per_s
            other_s += 2 * model.layers * (ring + ALL_REDUCE_LATENCY_S)
        other_s += (self.stages - 1) * (activations / self.device.link_bytes_per_s + HOP_LATENCY_S)
        return 1e3 * (linear_s + other_s)


def vision_cost(model: ModelSpec, device: Device) -> Linear:
    """Time of a step of images on one device: the tower is read once, each image's patches are multiplied with it.

    Raises:
        ConfigError: the model reads text alone.
    """
    vision = model.vision
    if vision is None:
        raise ConfigError("model", model.name, "has no vision tower; leave images out, or name a model that has one")
    read_s = vision.weights * model.weight_bytes / (device.bytes_per_s * REACHED_BANDWIDTH)
    image_s = 2.0 * vision.weights * vision.patches / (device.flops * REACHED_BY_VISION)
    return Linear(1e3 * read_s, 0.0, 1e3 * image_s)
