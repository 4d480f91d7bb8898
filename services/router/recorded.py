"""What a decision log needs to build a request flow again, and the flow that it builds."""

from __future__ import annotations

from typing import Any

from services.router.config import RouterConfig
from services.router.flow import RequestFlow


def flow_header(front_door: str, router: RouterConfig, block_size: int) -> dict[str, Any]:
    """What a log's header says of a flow."""
    return {"front_door": front_door, "router": router.model_dump(mode="json"), "block_size": block_size}


def flow_from_header(header: dict[str, Any]) -> RequestFlow:
    """The inverse of `flow_header`."""
    return RequestFlow(header["front_door"], RouterConfig.model_validate(header["router"]), header["block_size"])
