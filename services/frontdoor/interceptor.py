"""The gRPC interceptor: names every call, enters the layers around its handler, and turns errors into statuses."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc_status import rpc_status

from services.core.clock import Clock
from services.core.errors import InternalError, InvalidRequestError, TriptychError, UnsupportedError
from services.frontdoor.call import REQUEST_ID_KEY, Call, current_call, new_call
from services.frontdoor.layers import Layer
from services.frontdoor.status import status_of
from services.pb import inference_pb2 as pb

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Method: TypeAlias = Callable[[Any, Context], Any]

UNKNOWN_METHOD = "/unknown"
"""Stands in logs and metrics for every name that a client invents."""


class Undecodable:
    """Stands for a message that is not of its type."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method, streaming or not; cancellation passes through untouched.

    Args:
        layers: around every handler, outermost first.
        default_deadline_s: budget of calls that bring no deadline.
        max_deadline_s: bound of the others'.
    """

    def __init__(self, layers: Sequence[Layer], clock: Clock, default_deadline_s: float, max_deadline_s: float) -> None:
        self._layers = layers
        self._clock = clock
        self._default_deadline_s = default_deadline_s
        self._max_deadline_s = max_deadline_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler with everything around it; an unknown method gets one that says so."""
        received_ns = self._clock.now_ns()  # the first that Python hears of a call: its message is read after this
        handler: Any = await continuation(handler_call_details)  # its type knows only handlers that are not async
        name = str(handler_call_details.method)
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(self._unary(UNKNOWN_METHOD, unknown_method, received_ns))
        codecs = decode_or_mark(handler.request_deserializer), handler.response_serializer
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(name, handler.unary_unary, received_ns), *codecs)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._stream(name, handler.unary_stream, received_ns), *codecs)
        plain = handler.request_deserializer, handler.response_serializer
        assert handler.stream_stream is not None, f"{name} takes a stream and answers once; no such method is served"
        return grpc.stream_stream_rpc_method_handler(self._stream(name, handler.stream_stream, received_ns), *plain)

    def _unary(self, name: str, method: Method, received_ns: int) -> Callable[[Any, Context], Awaitable[Any]]:
        async def serve(request: Any, context: Context) -> Any:
            call = self._begin(name, request, context, received_ns)
            try:
                with contextlib.ExitStack() as stack:
                    self._enter(stack, call, request)
                    response = await method(request, context)
                    await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
                    return response
            except Exception as error:
                await abort(context, error, call.request_id)

        return serve

    def _stream(self, name: str, method: Method, received_ns: int) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def serve(request: Any, context: Context) -> AsyncIterator[Any]:
            call = self._begin(name, request, context, received_ns)
            try:
                with contextlib.ExitStack() as stack:
                    self._enter(stack, call, request)
                    responses = method(request, context)
                    if inspect.isawaitable(responses):  # health's Watch writes to the context itself
                        await responses
                        return
                    # Closed here and now when the client goes away, so that its request is cancelled at once.
                    async with contextlib.aclosing(responses):
                        async for response in responses:
                            if not call.num_messages:
                                call.first_message_ns = self._clock.now_ns()
                            call.num_messages += 1
                            yield response
            except Exception as error:
                await abort(context, error, call.request_id)

        return serve

    def _begin(self, name: str, request: Any, context: Context, received_ns: int) -> Call:
        """Name the call; a Generate request without an id gets it here."""
        pairs = context.invocation_metadata() or ()
        metadata = {str(key): value for key, value in pairs if isinstance(value, str)}
        is_generate = isinstance(request, pb.GenerateRequest)
        named = request.request_id if is_generate else ""
        remaining_s = context.time_remaining()
        limits = self._default_deadline_s, self._max_deadline_s
        call = new_call(self._clock, name, metadata, remaining_s, *limits, named, received_ns)

        def written(_: Context) -> None:  # its status, which is the last of it
            call.over(self._clock.now_ns())

        context.add_done_callback(written)  # type: ignore[arg-type]  # the stubs want a class, gRPC any function
        if is_generate and not request.HasField("request_id"):
            request.request_id = metadata.get(REQUEST_ID_KEY) or call.request_id
        current_call.set(call)
        return call

    def _enter(self, stack: contextlib.ExitStack, call: Call, request: Any) -> None:
        for layer in self._layers:
            stack.enter_context(layer(call))
        if isinstance(request, Undecodable):
            raise InvalidRequestError("message", f"is not a message that {call.method} takes")


async def unknown_method(request: Any, context: Context) -> NoReturn:
    """Raises:
    UnsupportedError: always.
    """
    raise UnsupportedError("there is no such method; reflection lists those that are there")


def decode_or_mark(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """A deserializer that marks what it cannot read: gRPC's own answer to that would be INTERNAL."""
    if decode is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:  # protobuf raises DecodeError, or others where a string is no UTF-8
            return Undecodable()

    return read


async def abort(context: Context, error: Exception, request_id: str) -> NoReturn:
    """End the call with the status of an error; of an unexpected one the client learns the request id alone."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, TriptychError):
        logger.error("request %s failed", request_id, exc_info=error)
        error = InternalError(f"request {request_id} failed inside the server; its log has the details")
    await context.abort_with_status(rpc_status.to_status(status_of(error, request_id)))
    raise AssertionError("abort_with_status returned")
