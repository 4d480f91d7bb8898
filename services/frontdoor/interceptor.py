"""The one place where errors become gRPC statuses, and where every request gets its id."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from services.core.clock import NS_PER_MS
from services.core.errors import InternalError, InvalidRequestError, TriptychError
from services.core.seeds import new_request_id
from services.pb import inference_pb2 as pb

logger = logging.getLogger(__name__)

DOMAIN = "triptych.dev"
REQUEST_ID_KEY = "x-request-id"

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method, streaming or not; cancellation passes through untouched."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler with its errors mapped; None (unknown method) stays None."""
        handler = await continuation(handler_call_details)
        method: Any = handler and (handler.unary_unary or handler.unary_stream)
        if handler is None or method is None:  # methods that take a stream are reflection's alone
            return handler
        codecs = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(wrap_stream(method), *codecs)
        return grpc.unary_unary_rpc_method_handler(wrap_unary(method), *codecs)


def wrap_unary(method: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    """A unary method whose errors are statuses."""

    async def call(request: Any, context: Context) -> Any:
        request_id = name_request(request, context)
        try:
            return await method(request, context)
        except Exception as error:
            await abort(context, error, request_id)

    return call


def wrap_stream(method: Callable[[Any, Context], AsyncGenerator[Any]]) -> Callable[[Any, Context], AsyncIterator[Any]]:
    """A streaming method whose errors are statuses, before and after its first message."""

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        request_id = name_request(request, context)
        try:
            # Closed here and now when the client goes away, so that its request is cancelled at once.
            async with contextlib.aclosing(method(request, context)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:
            await abort(context, error, request_id)

    return call


def name_request(request: Any, context: Context) -> str:
    """The id that goes into errors and logs; a Generate request without one gets it here."""
    offered = next((str(value) for key, value in context.invocation_metadata() or () if key == REQUEST_ID_KEY), "")
    if isinstance(request, pb.GenerateRequest):
        if not request.HasField("request_id"):
            request.request_id = offered or new_request_id()
        return request.request_id
    return offered or new_request_id()


async def abort(context: Context, error: Exception, request_id: str) -> NoReturn:
    """End the call with the status of an error; of an unexpected one the client learns the request id alone."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, TriptychError):
        logger.error("request %s failed", request_id, exc_info=error)
        error = InternalError(f"request {request_id} failed inside the server; its log has the details")
    await context.abort_with_status(rpc_status.to_status(status_of(error, request_id)))
    raise AssertionError("abort_with_status returned")


def status_of(error: TriptychError, request_id: str) -> status_pb2.Status:
    """An error as google.rpc.Status: ErrorInfo always, RetryInfo and BadRequest where they say something."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={**error.metadata, "request_id": request_id}
    )
    details: list[Any] = [info]
    wait_ms = error.metadata.get("retry_after_ms")
    if wait_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(wait_ms) * NS_PER_MS)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    packed = [any_pb2.Any() for _ in details]
    for slot, detail in zip(packed, details, strict=True):
        slot.Pack(detail)
    code: int = grpc.StatusCode[error.code].value[0]
    return status_pb2.Status(code=code, message=error.message, details=packed)
