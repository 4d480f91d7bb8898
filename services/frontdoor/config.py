"""Ports and limits of the front door."""

from __future__ import annotations

from pydantic import Field

from services.core.config import Strict


class FrontDoorConfig(Strict):
    """One front door replica."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="gRPC port.")
    http_port: int = Field(8000, ge=0, le=65535, description="HTTP port.")
    reflection: bool = Field(True, description="Serve gRPC reflection.")
    default_deadline_s: float = Field(600.0, gt=0, description="Deadline of requests that bring none.")
    max_message_bytes: int = Field(16 * 2**20, ge=2**16, description="Largest gRPC message.")
    max_running_requests: int = Field(512, ge=1, description="Requests in flight before new ones are refused.")
    max_output_tokens: int = Field(256, ge=1, description="Output limit of requests that name none.")
    worker_lost_s: float = Field(5.0, gt=0, description="A worker whose stream is silent this long is lost.")
    drain_s: float = Field(10.0, ge=0, description="How long open streams may go on after a stop was asked for.")
