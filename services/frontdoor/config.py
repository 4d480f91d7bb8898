"""Ports, limits, TLS and API keys of the front door; and the format of the file of API keys."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, model_validator

from services.core.config import Strict

MAX_FRONT_DOORS = 16
"""Front doors of one cluster."""


class Role(StrEnum):
    """What a key may do."""

    USER = "user"
    ADMIN = "admin"


class TenantLimits(Strict):
    """What one tenant may take of one front door replica."""

    max_running_requests: int | None = Field(None, ge=1, description="Requests in flight; null: the door's own limit.")
    requests_per_s: float | None = Field(None, gt=0, description="Requests a second in the long run; null: any.")
    burst_requests: int = Field(10, ge=1, description="Requests that may come at once before requests_per_s holds.")
    prompt_tokens_per_s: float | None = Field(
        None, gt=0, description="Prompt tokens a second in the long run; null: any."
    )
    burst_prompt_tokens: int = Field(
        20_000, ge=1, description="Prompt tokens that may come at once before prompt_tokens_per_s holds."
    )
    output_tokens_per_s: float | None = Field(
        None, gt=0, description="Output tokens a second in the long run; null: any."
    )
    burst_output_tokens: int = Field(
        10_000,
        ge=1,
        description="Output tokens that may be asked for at once; those that were not made are given back.",
    )


class AuthConfig(Strict):
    """API keys. Without `keys_file` everybody is one tenant and may do everything."""

    keys_file: str | None = Field(None, description="File of hashed keys, made by `triptych keys add`; null: no keys.")
    secret_file: str | None = Field(
        None, description="File with the cluster's secret, 32 bytes or more, that keeps tenants' prefixes apart."
    )
    limits: TenantLimits = Field(TenantLimits(), description="Limits of tenants that have none of their own.")

    @model_validator(mode="after")
    def _both_files(self) -> AuthConfig:
        if (self.keys_file is None) != (self.secret_file is None):
            raise ValueError("keys_file and secret_file go together; `triptych keys add` makes both")
        return self


class KeyEntry(Strict):
    """One API key; the key itself is not kept."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Name of the key in logs.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, which is random, in hex.")
    tenant: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Whose key it is.")
    role: Role = Field(Role.USER, description="user: generate. admin: also see and change the cluster.")


class KeysFile(Strict):
    """The file of API keys."""

    keys: tuple[KeyEntry, ...] = Field((), description="All keys that are accepted.")
    tenants: dict[str, TenantLimits] = Field({}, description="Limits of single tenants.")

    @model_validator(mode="after")
    def _unique(self) -> KeysFile:
        for name in ("id", "sha256"):
            values = [getattr(key, name) for key in self.keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {name}; remove one")
        return self


class TlsConfig(Strict):
    """A certificate for both doors, loaded again when its files change."""

    cert_file: str = Field(description="PEM file: the server's certificate, then those that signed it.")
    key_file: str = Field(description="PEM file of its private key, without a passphrase.")


class GrpcConfig(Strict):
    """Connections of the gRPC door."""

    max_metadata_bytes: int = Field(8 * 2**10, ge=2**10, le=2**20, description="Largest metadata (headers) of a call.")
    max_streams_per_connection: int = Field(1024, ge=1, description="Calls at once on one connection; more wait.")
    keepalive_s: float = Field(60.0, gt=0, description="The server pings a connection that is silent this long.")
    keepalive_timeout_s: float = Field(20.0, gt=0, description="A ping that is unanswered this long ends it.")
    min_client_ping_s: float = Field(
        30.0, gt=0, description="Clients may ping this often, with or without calls; too many faster ones end them."
    )
    max_connection_age_s: float = Field(
        600.0, gt=0, description="Connections are renewed at this age, so that new front doors get their share."
    )
    max_connection_age_grace_s: float = Field(
        600.0, gt=0, description="Streams of a renewed connection may go on this long: the default deadline."
    )


class HttpConfig(Strict):
    """Connections of the HTTP door."""

    max_body_bytes: int = Field(4 * 2**20, ge=2**10, description="Largest body of a request.")
    max_header_bytes: int = Field(16 * 2**10, ge=2**10, le=2**20, description="Largest headers of a request.")
    max_connections: int = Field(2048, ge=1, description="Connections at once; more are closed.")
    header_timeout_s: float = Field(10.0, gt=0, description="Headers that take longer end their connection.")
    body_timeout_s: float = Field(30.0, gt=0, description="A body that takes longer is refused.")
    idle_timeout_s: float = Field(75.0, gt=0, description="A connection without a request is closed after this.")
    keep_alive_comment_s: float = Field(15.0, gt=0, description="A stream that is silent this long gets a comment.")
    stalled_reader_s: float = Field(
        30.0, gt=0, description="A client that leaves a stream unread this long, its buffers full, is cut off."
    )


class FrontDoorConfig(Strict):
    """One front door replica."""

    replicas: int = Field(
        1, ge=1, le=MAX_FRONT_DOORS, description="Front door processes; those of one host share both ports."
    )
    host: str = Field(
        "127.0.0.1", description="Address to listen on; `ray-node`: the one that Ray has for each front door's host."
    )
    grpc_port: int = Field(50051, ge=0, le=65535, description="gRPC port.")
    http_port: int = Field(8000, ge=0, le=65535, description="HTTP port.")
    reflection: bool = Field(True, description="Serve gRPC reflection.")
    default_deadline_s: float = Field(600.0, gt=0, description="Deadline of requests that bring none.")
    max_deadline_s: float = Field(3600.0, gt=0, description="Bound of the deadlines that clients set.")
    max_message_bytes: int = Field(16 * 2**20, ge=2**16, description="Largest gRPC message.")
    max_running_requests: int = Field(512, ge=1, description="Requests in flight before new ones are refused.")
    max_output_tokens: int = Field(256, ge=1, description="Output limit of requests that name none.")
    worker_lost_s: float = Field(5.0, gt=0, description="A worker whose stream is silent this long is lost.")
    drain_s: float = Field(10.0, ge=0, description="How long open streams may go on after a stop was asked for.")
    reload_every_s: float = Field(1.0, gt=0, description="How often keys and certificate are looked at for changes.")
    tls: TlsConfig | None = Field(None, description="Certificate of both doors; null: plain text.")
    auth: AuthConfig = AuthConfig()
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
