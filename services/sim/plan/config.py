"""The hardware that a plan may use: `pool.yaml`."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from services.core.config import Strict
from services.sim.roofline import DEVICES

COEFFICIENTS = ("roofline", "published")


class GroupConfig(Strict):
    """Equal hosts."""

    device: str = Field(description="Name of the device in the table of roofline.py, or a new one with its numbers.")
    hosts: int = Field(1, ge=1, le=100_000, description="Hosts.")
    devices_per_host: int | None = Field(None, ge=1, le=256, description="Devices of one host; null: the datasheet's.")
    devices: int | None = Field(None, ge=1, description="Devices in all, where somebody counted; must agree.")
    price_per_hour: float | None = Field(None, ge=0, description="What one device costs an hour, in any unit.")
    watts: float | None = Field(None, gt=0, description="Power of one device, with its share of the host.")
    coefficients: str = Field("roofline", description="Step times: roofline (datasheets) or published (measured).")
    tflops: float | None = Field(None, gt=0, description="Dense bfloat16 TFLOP/s of one device.")
    memory_gbytes_per_s: float | None = Field(None, gt=0, description="Bandwidth of its memory.")
    memory_gbytes: float | None = Field(None, gt=0, description="Its memory.")
    link_gbytes_per_s: float | None = Field(None, gt=0, description="To its neighbours, in each direction.")

    @field_validator("coefficients")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in COEFFICIENTS:
            raise ValueError(f"choose one of {', '.join(COEFFICIENTS)}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> GroupConfig:
        numbers = (self.tflops, self.memory_gbytes_per_s, self.memory_gbytes, self.link_gbytes_per_s, self.watts)
        if self.device.removesuffix("-capped") not in DEVICES and None in numbers:
            raise ValueError(
                f"known devices are {', '.join(DEVICES)}; a new one needs tflops, memory_gbytes_per_s, memory_gbytes, "
                "link_gbytes_per_s and watts"
            )
        if self.devices is not None and self.devices != self.hosts * self.per_host:
            raise ValueError(
                f"devices is {self.devices}, but {self.hosts} hosts with {self.per_host} each are "
                f"{self.hosts * self.per_host}; remove one of the three numbers"
            )
        return self

    @property
    def per_host(self) -> int:
        """Devices of one host."""
        known = DEVICES.get(self.device.removesuffix("-capped"))
        return self.devices_per_host or (known.per_host if known else 8)


class BetweenHostsConfig(Strict):
    """The network that hosts are joined by."""

    gbytes_per_s: float = Field(25.0, gt=0, description="Bandwidth of one host's port, in each direction.")
    latency_us: float = Field(30.0, ge=0, description="Time of a message without bytes.")


class HardwareConfig(Strict):
    """Everything that may be used."""

    groups: tuple[GroupConfig, ...] = Field(min_length=1, description="Hosts, by what is in them.")
    between_hosts: BetweenHostsConfig = BetweenHostsConfig()
    max_price_per_hour: float | None = Field(None, gt=0, description="Budget; null: none.")
    max_watts: float | None = Field(None, gt=0, description="Power that is there; null: enough.")

    @model_validator(mode="after")
    def _agrees(self) -> HardwareConfig:
        names = [group.device for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError(f"groups name {', '.join(names)}; write one group for each device")
        for group in self.groups:
            known = DEVICES.get(group.device.removesuffix("-capped"))
            link = group.link_gbytes_per_s or (known.link_bytes_per_s / 1e9 if known else None)
            if link is not None and group.per_host > 1 and self.between_hosts.gbytes_per_s > link * group.per_host:
                raise ValueError(
                    f"between_hosts.gbytes_per_s is {self.between_hosts.gbytes_per_s:g}, faster than all links of a "
                    f"host of {group.device} together ({link * group.per_host:g}); one of them is wrong"
                )
        if self.max_price_per_hour is not None and any(group.price_per_hour is None for group in self.groups):
            raise ValueError("max_price_per_hour needs a price_per_hour of every group")
        return self
