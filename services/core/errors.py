"""The one error tree: every failure a user can see has a canonical code, an HTTP status and a retry hint.

TriptychError
├── StartupError            the command cannot start; exit status 2
│   ├── ConfigError         a configuration value is wrong: path, value, fix
│   ├── ModelError          model files are missing, unsafe, or of the wrong shape
│   ├── PortBusyError       another process holds a port
│   └── MemoryShortError    weights and KV pool do not fit
├── InvalidRequestError     INVALID_ARGUMENT    a request field is wrong
│   └── PromptTooLongError
├── ModelNotFoundError      NOT_FOUND
├── DuplicateRequestError   ALREADY_EXISTS
├── OverloadedError         RESOURCE_EXHAUSTED  retry later
├── UnavailableError        UNAVAILABLE         no worker, a worker died, or a hand-off failed
├── FailedPreconditionError FAILED_PRECONDITION the target's state forbids the operation
├── DeadlineError           DEADLINE_EXCEEDED
├── CancelledError          CANCELLED
└── InternalError           INTERNAL            a bug of ours
"""

from __future__ import annotations

from typing import ClassVar


class TriptychError(Exception):
    """Base of every error that may reach a user.

    Attributes:
        code: canonical gRPC status name.
        http_status: status of the HTTP facade.
        retryable: whether the same request may succeed when sent again.
        reason: stable machine-readable label, UPPER_SNAKE, goes to metrics and `ErrorInfo.reason`.
        metadata: small string map for `ErrorInfo.metadata`.
    """

    code: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None, metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = metadata or {}


class StartupError(TriptychError):
    """A command cannot start; the CLI prints the message without a traceback and exits with status 2."""

    code = "FAILED_PRECONDITION"
    http_status = 400
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
    default_reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, message: str, *, reason: str | None = None) -> None:
        super().__init__(f"{field}: {message}", reason=reason, metadata={"field": field})
        self.field = field


class PromptTooLongError(InvalidRequestError):
    """Prompt plus requested output does not fit the model's context window or the KV pool."""

    default_reason = "CONTEXT_LENGTH_EXCEEDED"


class ModelNotFoundError(TriptychError):
    """The request names a model that this cluster does not serve."""

    code = "NOT_FOUND"
    http_status = 404
    default_reason = "MODEL_NOT_FOUND"


class DuplicateRequestError(TriptychError):
    """A request with this id is already running."""

    code = "ALREADY_EXISTS"
    http_status = 409
    default_reason = "DUPLICATE_REQUEST"


class OverloadedError(TriptychError):
    """The cluster is full; `metadata["retry_after_ms"]` says when to come back."""

    code = "RESOURCE_EXHAUSTED"
    http_status = 429
    retryable = True
    default_reason = "OVERLOADED"


class UnavailableError(TriptychError):
    """No worker can serve the request now, a worker died, or the hand-off failed."""

    code = "UNAVAILABLE"
    http_status = 503
    retryable = True
    default_reason = "UNAVAILABLE"


class FailedPreconditionError(TriptychError):
    """The operation does not fit the state of its target (draining a worker that is gone)."""

    code = "FAILED_PRECONDITION"
    http_status = 409
    default_reason = "FAILED_PRECONDITION"


class DeadlineError(TriptychError):
    """The client's deadline passed; `metadata["stage"]` says where."""

    code = "DEADLINE_EXCEEDED"
    http_status = 504
    retryable = True
    default_reason = "DEADLINE"


class CancelledError(TriptychError):
    """The client cancelled or went away."""

    code = "CANCELLED"
    http_status = 499
    default_reason = "CANCELLED"


class InternalError(TriptychError):
    """A bug of ours; the message carries the request id and nothing else of the inside."""
