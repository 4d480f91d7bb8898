"""The error map as a table: what a client of either door sees of each error of the tree."""

from __future__ import annotations

from dataclasses import dataclass

from services.core import errors as e

RETRY = {"retry_after_ms": "1500"}


@dataclass(frozen=True)
class Row:
    """One kind of failure.

    Attributes:
        grpc: status name.
        http: status of the HTTP door.
        type, code: in the OpenAI error body.
        details: of the gRPC status, beside ErrorInfo.
    """

    error: e.TriptychError
    grpc: str
    http: int
    type: str
    code: str
    details: frozenset[str] = frozenset()


def row(error: e.TriptychError, grpc: str, http: int, type_: str, code: str, *details: str) -> Row:
    return Row(error, grpc, http, type_, code, frozenset(details))


INVALID, UNAVAILABLE = "invalid_request_error", "service_unavailable"
ROWS = (
    row(e.InvalidRequestError("top_p", "is wrong"), "INVALID_ARGUMENT", 400, INVALID, "invalid_argument", "BadRequest"),
    row(
        e.PromptTooLongError("messages", "too long"),
        *("INVALID_ARGUMENT", 400, INVALID, "context_length_exceeded", "BadRequest"),
    ),
    row(
        e.UnsupportedFieldError("tools", "not there"),
        *("UNIMPLEMENTED", 400, INVALID, "unsupported", "BadRequest"),
    ),
    row(e.UnsupportedError("no such thing"), "UNIMPLEMENTED", 501, INVALID, "unsupported"),
    row(e.UnauthenticatedError("no key"), "UNAUTHENTICATED", 401, "authentication_error", "invalid_api_key"),
    row(e.PermissionDeniedError("no"), "PERMISSION_DENIED", 403, "permission_error", "permission_denied"),
    row(
        e.ModelNotFoundError("model: gpt is not served", model="gpt"),
        *("NOT_FOUND", 404, "not_found_error", "model_not_found", "ResourceInfo"),
    ),
    row(
        e.NotFoundError("no worker", kind="worker", name="w"),
        *("NOT_FOUND", 404, "not_found_error", "not_found", "ResourceInfo"),
    ),
    row(e.DuplicateRequestError("runs"), "ALREADY_EXISTS", 409, "conflict_error", "duplicate_request"),
    row(e.TooLargeError("a body of 1 GB"), "RESOURCE_EXHAUSTED", 413, INVALID, "too_large"),
    row(
        e.QuotaError("slow down", subject="tenant:a", retry_after_ms=1500),
        *("RESOURCE_EXHAUSTED", 429, "rate_limit_error", "rate_limited", "QuotaFailure", "RetryInfo"),
    ),
    row(
        e.OverloadedError("full", metadata=RETRY),
        *("RESOURCE_EXHAUSTED", 429, "overloaded_error", "overloaded", "RetryInfo"),
    ),
    row(e.UnavailableError("none", metadata=RETRY), "UNAVAILABLE", 503, UNAVAILABLE, "unavailable", "RetryInfo"),
    row(
        e.UnavailableError("broken", reason="KV_TRANSFER_FAILED", metadata=RETRY),
        *("UNAVAILABLE", 503, UNAVAILABLE, "kv_transfer_failed", "RetryInfo"),
    ),
    row(
        e.FailedPreconditionError("drains already"),
        *("FAILED_PRECONDITION", 409, "conflict_error", "failed_precondition", "PreconditionFailure"),
    ),
    row(e.DeadlineError("late", metadata={"stage": "queued"}), "DEADLINE_EXCEEDED", 504, "timeout_error", "deadline"),
    row(e.CancelledError("gone"), "CANCELLED", 499, "cancelled", "cancelled"),
    row(e.InternalError("request r failed"), "INTERNAL", 500, "server_error", "internal"),
)


def classes(base: type[e.TriptychError] = e.TriptychError) -> set[type[e.TriptychError]]:
    """Every class that a door may answer with."""
    below = {found for cls in base.__subclasses__() if cls is not e.StartupError for found in {cls} | classes(cls)}
    return {cls for cls in below if cls.__module__ == e.__name__}
