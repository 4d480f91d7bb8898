"""The one error tree: every failure a user can see has a canonical code, an HTTP status and a retry hint.

Class                   gRPC code           HTTP  OpenAI type

TriptychError
├── StartupError            the command cannot start; exit status 2
│   ├── ConfigError         a configuration value is wrong: path, value, fix
│   ├── ModelError          model files are missing, unsafe, or of the wrong shape
│   ├── PortBusyError       another process holds a port
│   └── MemoryShortError    weights and KV pool do not fit
├── InvalidRequestError     INVALID_ARGUMENT    400   invalid_request_error    a request field is wrong
│   ├── PromptTooLongError
│   └── UnsupportedFieldError   UNIMPLEMENTED   400                            a field asks for what is not there
├── UnsupportedError        UNIMPLEMENTED       501   invalid_request_error    a method or feature that is not there
├── UnauthenticatedError    UNAUTHENTICATED     401   authentication_error     no API key, or one that is not known
├── PermissionDeniedError   PERMISSION_DENIED   403   permission_error         the key's role does not allow it
├── ModelNotFoundError      NOT_FOUND           404   not_found_error
├── NotFoundError           NOT_FOUND           404   not_found_error          a worker or pool of that name
├── DuplicateRequestError   ALREADY_EXISTS      409   conflict_error
├── TooLargeError           RESOURCE_EXHAUSTED  413   invalid_request_error    a body or message beyond the limit
├── QuotaError              RESOURCE_EXHAUSTED  429   rate_limit_error         the tenant's own limit; retry later
├── OverloadedError         RESOURCE_EXHAUSTED  429   overloaded_error         everybody's limit; retry later
├── UnavailableError        UNAVAILABLE         503   service_unavailable      no worker, or what it did was lost
├── FailedPreconditionError FAILED_PRECONDITION 409   conflict_error           the target's state forbids the operation
├── DeadlineError           DEADLINE_EXCEEDED   504   timeout_error
├── CancelledError          CANCELLED           499   cancelled                in logs alone: nobody reads it
└── InternalError           INTERNAL            500   server_error             a bug of ours

Both doors map errors from this table alone. The OpenAI body's `code` is the reason in lower case.
"""

from __future__ import annotations

from typing import ClassVar


class TriptychError(Exception):
    """Base of every error that may reach a user.

    Attributes:
        code: canonical gRPC status name.
        http_status: status of the HTTP facade.
        openai_type: `type` in the HTTP facade's error body.
        retryable: whether the same request may succeed when sent again.
        reason: stable machine-readable label, UPPER_SNAKE, goes to metrics and `ErrorInfo.reason`.
        metadata: small string map for `ErrorInfo.metadata`.
    """

    code: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    openai_type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None, metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = metadata or {}

    @property
    def retry_after_ms(self) -> int | None:
        """When to come back, in milliseconds; None when nobody knows, or when that would not help."""
        wait = self.metadata.get("retry_after_ms")
        return None if wait is None else int(wait)

    @property
    def openai_code(self) -> str:
        """`code` in the HTTP facade's error body: `context_length_exceeded`, `invalid_api_key`, ..."""
        return self.reason.lower()

    @property
    def param(self) -> str | None:
        """`param` in the HTTP facade's error body: the field that is wrong."""
        return self.metadata.get("field")


class StartupError(TriptychError):
    """A command cannot start; the CLI prints the message without a traceback and exits with status 2."""

    code = "FAILED_PRECONDITION"
    http_status = 400
    openai_type = "invalid_request_error"
    default_reason = "STARTUP"


class ConfigError(StartupError):
    """A configuration value is wrong.

    Args:
        path: dotted path of the key (`pools.prefill.replicas`).
        value: the value found.
        fix: what to write instead, as a sentence.
    """

    default_reason = "BAD_CONFIG"

    def __init__(self, path: str, value: object, fix: str) -> None:
        super().__init__(f"{path} = {value!r}: {fix}", metadata={"path": path})
        self.path = path
        self.value = value
        self.fix = fix


class ModelError(StartupError):
    """Model files are missing, unsafe or of the wrong shape; the message names the file and the fix."""

    default_reason = "BAD_MODEL"


class PortBusyError(StartupError):
    """A port is held by another process; the message names its pid and command."""

    default_reason = "PORT_BUSY"


class MemoryShortError(StartupError):
    """Weights and KV pool do not fit into the memory there is."""

    default_reason = "MEMORY_SHORT"


class InvalidRequestError(TriptychError):
    """A request field is wrong; `field` is its proto path."""

    code = "INVALID_ARGUMENT"
    http_status = 400
    openai_type = "invalid_request_error"
    default_reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, message: str, *, reason: str | None = None) -> None:
        super().__init__(f"{field}: {message}", reason=reason, metadata={"field": field})
        self.field = field


class PromptTooLongError(InvalidRequestError):
    """Prompt plus requested output does not fit the model's context window or the KV pool."""

    default_reason = "CONTEXT_LENGTH_EXCEEDED"


class UnsupportedFieldError(InvalidRequestError):
    """A field of the OpenAI API asks for something that this server does not do; never ignored in silence."""

    code = "UNIMPLEMENTED"
    default_reason = "UNSUPPORTED"


class UnsupportedError(TriptychError):
    """A method or feature that this server does not have."""

    code = "UNIMPLEMENTED"
    http_status = 501
    openai_type = "invalid_request_error"
    default_reason = "UNSUPPORTED"


class UnauthenticatedError(TriptychError):
    """The call brings no API key, or one that is not known."""

    code = "UNAUTHENTICATED"
    http_status = 401
    openai_type = "authentication_error"
    default_reason = "INVALID_API_KEY"


class PermissionDeniedError(TriptychError):
    """The key is known but its role does not allow the call."""

    code = "PERMISSION_DENIED"
    http_status = 403
    openai_type = "permission_error"
    default_reason = "PERMISSION_DENIED"


class ModelNotFoundError(TriptychError):
    """The request names a model that this cluster does not serve.

    Args:
        model: the name that was asked for.
    """

    code = "NOT_FOUND"
    http_status = 404
    openai_type = "not_found_error"
    default_reason = "MODEL_NOT_FOUND"

    def __init__(self, message: str, *, model: str = "", reason: str | None = None) -> None:
        super().__init__(message, reason=reason, metadata={"field": "model"})
        self.model = model


class NotFoundError(TriptychError):
    """The call names a worker, a pool or another resource that is not there.

    Args:
        kind: of the resource: worker, pool, path, ...
        name: the one that was asked for.
    """

    code = "NOT_FOUND"
    http_status = 404
    openai_type = "not_found_error"
    default_reason = "NOT_FOUND"

    def __init__(self, message: str, *, kind: str, name: str, reason: str | None = None) -> None:
        super().__init__(message, reason=reason, metadata={"kind": kind, "name": name[:200]})
        self.kind = kind
        self.name = name


class DuplicateRequestError(TriptychError):
    """A request with this id is already running."""

    code = "ALREADY_EXISTS"
    http_status = 409
    openai_type = "conflict_error"
    default_reason = "DUPLICATE_REQUEST"


class TooLargeError(TriptychError):
    """A body or message is beyond the limit; sending it again does not help."""

    code = "RESOURCE_EXHAUSTED"
    http_status = 413
    openai_type = "invalid_request_error"
    default_reason = "TOO_LARGE"


class QuotaError(TriptychError):
    """The tenant has reached a limit of its own.

    Args:
        subject: whose limit: `tenant:acme`.
        retry_after_ms: when it lets the next request in.
    """

    code = "RESOURCE_EXHAUSTED"
    http_status = 429
    openai_type = "rate_limit_error"
    retryable = True
    default_reason = "RATE_LIMITED"

    def __init__(self, message: str, *, subject: str, retry_after_ms: int, reason: str | None = None) -> None:
        super().__init__(
            message, reason=reason, metadata={"subject": subject, "retry_after_ms": str(max(retry_after_ms, 1))}
        )
        self.subject = subject


class OverloadedError(TriptychError):
    """The cluster is full; `metadata["retry_after_ms"]` says when to come back."""

    code = "RESOURCE_EXHAUSTED"
    http_status = 429
    openai_type = "overloaded_error"
    retryable = True
    default_reason = "OVERLOADED"


class UnavailableError(TriptychError):
    """No worker can serve the request now, a worker died, or the hand-off failed."""

    code = "UNAVAILABLE"
    http_status = 503
    openai_type = "service_unavailable"
    retryable = True
    default_reason = "UNAVAILABLE"


class FailedPreconditionError(TriptychError):
    """The operation does not fit the state of its target (draining a worker that is gone)."""

    code = "FAILED_PRECONDITION"
    http_status = 409
    openai_type = "conflict_error"
    default_reason = "FAILED_PRECONDITION"


class DeadlineError(TriptychError):
    """The client's deadline passed; `metadata["stage"]` says where."""

    code = "DEADLINE_EXCEEDED"
    http_status = 504
    openai_type = "timeout_error"
    retryable = True
    default_reason = "DEADLINE"


class CancelledError(TriptychError):
    """The client cancelled or went away."""

    code = "CANCELLED"
    http_status = 499
    openai_type = "cancelled"
    default_reason = "CANCELLED"


class InternalError(TriptychError):
    """A bug of ours; the message carries the request id and nothing else of the inside."""
