"""What a simulation needs to know beside the cluster's own configuration."""

from __future__ import annotations

from pydantic import Field

from services.core.config import Strict


class DelaysConfig(Strict):
    """Times of everything that is neither computing nor bytes; the defaults were measured on one host under Ray."""

    door_ms: float = Field(2.0, ge=0, description="From the client's send to the router: HTTP, tokens of the prompt.")
    dispatch_ms: float = Field(2.0, ge=0, description="From the front door to a worker.")
    stream_ms: float = Field(1.5, ge=0, description="From a worker to the client: a token's way back.")
    message_ms: float = Field(2.0, ge=0, description="From a worker to another one.")
    open_link_ms: float = Field(1.0, ge=0, description="To make a link for KV.")
    detect_ms: float = Field(15.0, ge=0, description="From a process's death to the news of it.")
    start_s: float = Field(20.0, ge=0, description="From the launch of a worker to its first report.")


class WireConfig(Strict):
    """One class of link."""

    latency_us: float = Field(ge=0, description="Time of a message without bytes.")
    gbytes_per_s: float = Field(gt=0, description="Bandwidth of one port, in each direction.")


class WiresConfig(Strict):
    """Links by what lies between two workers.

    Same device and host: copies in memory. NVLink: 4th generation, 450 GB/s each way (NVIDIA H100 datasheet: 900 GB/s
    in all). Rack: one 200 Gb/s port a host. Zone: 25 Gb/s, the network between nodes of DistServe's testbed.
    """

    same_device: WireConfig = WireConfig(latency_us=5, gbytes_per_s=1000)
    nvlink: WireConfig = WireConfig(latency_us=10, gbytes_per_s=450)
    host: WireConfig = WireConfig(latency_us=20, gbytes_per_s=25)
    rack: WireConfig = WireConfig(latency_us=30, gbytes_per_s=25)
    zone: WireConfig = WireConfig(latency_us=100, gbytes_per_s=3.125)


class MachinesConfig(Strict):
    """What the workers run on.

    `fitted` takes the coefficients of `router.cost` (or a profile), which hold for one model on one machine;
    `opt-13b-a100` the published ones; any other name is a device of `roofline.py` with the analytic cost of `model`.
    """

    prefill: str = Field("fitted", description="fitted, opt-13b-a100, or a device such as h100-80g.")
    decode: str = Field("fitted", description="The same for decode workers.")
    encode: str | None = Field(None, description="The same for encode workers; null: that of prefill workers.")
    model: str | None = Field(None, description="Name of models.py; null: the cluster's model.")
    prefill_stages: int = Field(1, ge=1, description="Pipeline stages of a prefill worker.")
    decode_stages: int = Field(1, ge=1, description="Pipeline stages of a decode worker.")
    nvlink: bool = Field(True, description="Devices of one host are joined by it.")


class ImagesConfig(Strict):
    """Images of a trace's requests."""

    tokens: int | None = Field(None, ge=1, description="Tokens that an image adds to its prompt; null: none has any.")


class HostConfig(Strict):
    """One host whose cores all workers, the front door and the clients share; `triptych profile` measures it."""

    cores: int | None = Field(None, ge=1, description="null: every worker has a device of its own.")
    lent_speedup: float = Field(1.0, ge=1, description="Of a decode step with the cores of idle workers.")
    prefill_slowdown: float = Field(1.0, ge=1, description="Of prompts while all other cores compute, too.")
    decode_slowdown: float = Field(1.0, ge=1, description="Of a decode step while all other cores compute, too.")
    wake_slowdown: float = Field(1.0, ge=1, description="Of what a worker computes first after a pause.")
    wake_ms: float = Field(0.0, ge=0, description="How much of its work is slower then: a core's clock rises again.")
    step_ms: float = Field(0.0, ge=0, description="Around each step of a worker: threads, the next batch, messages.")
    request_cpu_ms: float = Field(0.0, ge=0, description="CPU of front door and client for a request.")
    item_cpu_ms: float = Field(0.0, ge=0, description="CPU of both for what a step brings, however many tokens it is.")
    token_cpu_ms: float = Field(0.0, ge=0, description="CPU of front door and client for a token.")


class SimConfig(Strict):
    """One simulation."""

    fast_forward: bool = Field(True, description="Pass over steady decode steps; results are the same.")
    delays: DelaysConfig = DelaysConfig()
    wires: WiresConfig = WiresConfig()
    machines: MachinesConfig = MachinesConfig()
    images: ImagesConfig = ImagesConfig()
    host: HostConfig = HostConfig()
