"""Errors of the one tree as google.rpc statuses with details."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2 as details_pb2  # type: ignore[import-untyped]
from google.rpc import status_pb2

from services.core.clock import NS_PER_MS
from services.core.errors import (
    FailedPreconditionError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    QuotaError,
    TriptychError,
)

DOMAIN = "triptych.dev"
MAX_CHARS = 500
"""Longest text of a status: statuses travel in headers, which clients bound at 8 KiB, and messages quote the client."""


def status_of(error: TriptychError, request_id: str) -> status_pb2.Status:
    """An error as google.rpc.Status: ErrorInfo always, and whatever else says more about it."""
    known = {key: shortened(value) for key, value in error.metadata.items()}
    info = details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={**known, "request_id": request_id})
    packed = []
    for detail in [info, *more_details(error)]:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    code: int = grpc.StatusCode[error.code].value[0]
    return status_pb2.Status(code=code, message=shortened(error.message), details=packed)


def shortened(text: str) -> str:
    """At most MAX_CHARS of a text."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 4] + " ..."


def more_details(error: TriptychError) -> list[Any]:
    """RetryInfo where it is known when to come back; the field, quota, state or resource that is meant."""
    found: list[Any] = []
    if error.retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(error.retry_after_ms * NS_PER_MS)
        found.append(details_pb2.RetryInfo(retry_delay=delay))
    match error:
        case InvalidRequestError():
            text = shortened(error.message)
            field = details_pb2.BadRequest.FieldViolation(field=error.field, description=text)
            found.append(details_pb2.BadRequest(field_violations=[field]))
        case QuotaError():
            quota = details_pb2.QuotaFailure.Violation(subject=error.subject, description=error.message)
            found.append(details_pb2.QuotaFailure(violations=[quota]))
        case FailedPreconditionError():
            state = details_pb2.PreconditionFailure.Violation(type=error.reason, description=error.message)
            found.append(details_pb2.PreconditionFailure(violations=[state]))
        case ModelNotFoundError():
            found.append(details_pb2.ResourceInfo(resource_type="model", resource_name=error.model[:200]))
        case NotFoundError():
            found.append(details_pb2.ResourceInfo(resource_type=error.kind, resource_name=error.name[:200]))
    return found
