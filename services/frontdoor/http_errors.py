"""Errors as OpenAI's error body, and the few kinds that only HTTP has."""

from __future__ import annotations

import http
import math
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from services.core.errors import (
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    TriptychError,
    UnsupportedError,
)

MS_PER_S = 1000
MAX_SHOWN = 80
"""Characters of a wrong value that are repeated to the client."""


class InvalidJsonError(InvalidRequestError):
    """The body is not JSON."""

    default_reason = "INVALID_JSON"

    @property
    def param(self) -> str | None:
        """No field is at fault."""
        return None


class MediaTypeError(InvalidRequestError):
    """The body is said to be something else than JSON."""

    http_status = 415
    default_reason = "UNSUPPORTED_MEDIA_TYPE"


class HeadersTooLargeError(TooLargeError):
    """The headers are beyond the limit."""

    http_status = 431
    default_reason = "HEADERS_TOO_LARGE"


class SlowRequestError(DeadlineError):
    """The request did not come in time."""

    http_status = 408
    default_reason = "REQUEST_TIMEOUT"


class MethodNotAllowedError(UnsupportedError):
    """The path is there, but not for this method."""

    http_status = 405
    default_reason = "METHOD_NOT_ALLOWED"


class BadHttpError(TriptychError):
    """What was sent is not HTTP."""

    code = "INVALID_ARGUMENT"
    http_status = 400
    openai_type = "invalid_request_error"
    default_reason = "INVALID_HTTP"


def error_body(error: TriptychError) -> dict[str, Any]:
    """The body of a failure."""
    body = {"message": error.message, "type": error.openai_type, "param": error.param, "code": error.openai_code}
    return {"error": body}


def error_headers(error: TriptychError) -> dict[str, str]:
    """When to come back; and how to authenticate."""
    headers = {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_ms / MS_PER_S)))
        headers["retry-after-ms"] = str(error.retry_after_ms)
    if error.http_status == http.HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return headers


def error_response(error: TriptychError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A whole answer."""
    return JSONResponse(error_body(error), error.http_status, {**error_headers(error), **(headers or {})})


def from_framework(error: HTTPException, method: str, path: str) -> TriptychError:
    """What the routes found wrong with a request, as an error of the tree."""
    where = f"{method} {path[:200]}"
    match error.status_code:
        case http.HTTPStatus.NOT_FOUND:
            message = f"{where}: there is no such path; /openapi.json lists those that are"
            return NotFoundError(message, kind="path", name=path)
        case http.HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow", "another method")
            return MethodNotAllowedError(f"{where}: this path wants {allowed}")
        case _:  # the body could not be read: nested too deep, no UTF-8, ...
            return InvalidJsonError("body", "cannot be read as JSON")


def from_validation(error: RequestValidationError) -> InvalidRequestError:
    """What is wrong with the first wrong field of a body, with its path as a client writes it."""
    errors = error.errors()
    first = errors[0]
    if first["type"] == "json_invalid":
        detail = str((first.get("ctx") or {}).get("error", "")) or "it ends too early"
        return InvalidJsonError("body", f"is not JSON: {detail} (at character {first['loc'][-1]})")
    found = [field_path(each, error.body) for each in errors if each["loc"][:2] == first["loc"][:2]]
    # A field of several types has an error for each of them; the one that got deepest is of the type that was meant.
    _, path, message = max(found, key=lambda each: each[0])
    return InvalidRequestError(path or "body", message)


def field_path(error: Mapping[str, Any], body: Any) -> tuple[int, str, str]:
    """(depth, path, message) of one of pydantic's errors."""
    path, value, depth, known = "", body, 0, True
    for part in error["loc"][1:]:
        if isinstance(value, dict) and part in value:
            path, value = f"{path}.{part}" if path else str(part), value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = f"{path}[{part}]", value[part]
        elif error["type"] == "missing" and part == error["loc"][-1]:
            path, known = f"{path}.{part}" if path else str(part), False
        else:  # the name of one of several types that the field may have
            continue
        depth += 1
    message = str(error["msg"]) + (f"; found {type_name(value)} {shown(value)}" if known else "")
    return depth, path, message.rstrip()


def type_name(value: object) -> str:
    """A JSON type's name."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def shown(value: object) -> str:
    """A wrong value, shortened; of arrays and objects only the length."""
    if isinstance(value, dict | list):
        return f"of {len(value)}"
    return "" if value is None else ascii(value)[:MAX_SHOWN] if isinstance(value, str) else repr(value)[:MAX_SHOWN]
