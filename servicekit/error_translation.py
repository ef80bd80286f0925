"""The one place where exceptions become gRPC statuses, and the JSON error body of the gateway.

It wraps every method once, so that calls are counted and timed here too.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, cast

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from servicekit import calls, tracing
from servicekit.errors import InternalError, Kind, RemoteError, ServiceError, UnavailableError, ValidationError
from servicekit.metrics import STREAMS, CallMeter

ERROR_DOMAIN: Final = "textway"
HTTP_STATUS_KEY: Final = "x-http-status"
ERROR_BODY_KEY: Final = "x-error-body"
STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"

_BY_KIND: Final[dict[Kind, tuple[grpc.StatusCode, int]]] = {
    Kind.INVALID_INPUT: (grpc.StatusCode.INVALID_ARGUMENT, 400),
    Kind.UNAUTHENTICATED: (grpc.StatusCode.UNAUTHENTICATED, 401),
    Kind.FORBIDDEN: (grpc.StatusCode.PERMISSION_DENIED, 403),
    Kind.NOT_FOUND: (grpc.StatusCode.NOT_FOUND, 404),
    Kind.ALREADY_EXISTS: (grpc.StatusCode.ALREADY_EXISTS, 409),
    Kind.CONFLICT: (grpc.StatusCode.ABORTED, 409),
    Kind.UNPROCESSABLE: (grpc.StatusCode.FAILED_PRECONDITION, 422),
    Kind.TOO_LARGE: (grpc.StatusCode.OUT_OF_RANGE, 413),
    Kind.UNSUPPORTED_ENCODING: (grpc.StatusCode.UNIMPLEMENTED, 415),
    Kind.RATE_LIMITED: (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    Kind.INTERNAL: (grpc.StatusCode.INTERNAL, 500),
    Kind.UNAVAILABLE: (grpc.StatusCode.UNAVAILABLE, 503),
}
_KIND_OF_CODE: Final = {code: kind for kind, (code, _) in _BY_KIND.items()}
# Asked many times a second by whoever watches: traces of these would hide all others.
_IS_PROBE: Final = re.compile(r"\.(Health|HealthService|ServerReflection|OperationsService)/")
_OK: Final = grpc.StatusCode.OK.name
# What `ServicerContext.code` returns is a number at run time, whatever its type says.
_NAME_OF_CODE: Final[dict[object, str]] = {
    **{code: code.name for code in grpc.StatusCode},
    **{code.value[0]: code.name for code in grpc.StatusCode},
}
_CANCELLED: Final = grpc.StatusCode.CANCELLED.name  # the caller went away, or its time was over

log = structlog.get_logger(__name__)


def guarded(server: grpc.aio.Server) -> grpc.aio.Server:
    """Return what servicers are to be registered with: every exception of theirs is then answered with a status.

    Their methods are wrapped as they are registered: an interceptor would be asked at each call.
    """
    return cast("grpc.aio.Server", _Guarded(server))


class _Guarded:
    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers([_GuardedHandler(handler) for handler in handlers])

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        wrapped = {name: _wrap(handler, f"{service}/{name}") for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)


class _GuardedHandler(grpc.GenericRpcHandler):
    """Finds the methods of a service."""

    def __init__(self, handler: grpc.GenericRpcHandler) -> None:
        self._handler = handler
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = self._handler.service(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = _wrap(handler, method.removeprefix("/"))
        return wrapped


def _wrap(handler: grpc.RpcMethodHandler[Any, Any], rpc: str) -> grpc.RpcMethodHandler[Any, Any]:
    untyped = cast("Any", handler)
    if untyped.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _guard_unary(untyped.unary_unary, rpc), untyped.request_deserializer, untyped.response_serializer
        )
    if untyped.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _guard_stream(untyped.stream_stream, rpc), untyped.request_deserializer, untyped.response_serializer
        )
    return handler


def _guard_unary(behavior: Callable[..., Awaitable[Any]], rpc: str) -> Callable[..., Any]:
    meter, is_traced = CallMeter(rpc), not _IS_PROBE.search(rpc)

    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        started, code = time.perf_counter(), _OK
        traceparent = calls.bind(context)
        with tracing.span(rpc, parent=traceparent, kind=tracing.Kind.SERVER) if is_traced else tracing.NOTHING as span:
            try:
                return await behavior(request, context)
            except asyncio.CancelledError:
                code = _CANCELLED
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a status and no internals
                code = _code_name(context, error)
                span.fail(code)
                await _abort(context, error, rpc)
            finally:
                span.tell(request_id=calls.request_id())
                meter.answered(code, time.perf_counter() - started)

    return guarded


def _guard_stream(behavior: Callable[..., AsyncIterator[Any]], rpc: str) -> Callable[..., Any]:
    meter, streams = CallMeter(rpc), STREAMS.labels(rpc)

    async def guarded(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        code = _OK
        streams.inc()
        calls.bind(context)
        try:
            async for response in behavior(requests, context):
                yield response
        except (asyncio.CancelledError, GeneratorExit):
            code = _CANCELLED
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a status and no internals
            code = _code_name(context, error)
            await _abort(context, error, rpc)
        finally:
            streams.dec()
            meter.ended(code)

    return guarded


def _code_name(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> str:
    if isinstance(error, grpc.aio.AbortError):
        return _NAME_OF_CODE.get(context.code(), "UNKNOWN")
    kind = error.kind if isinstance(error, ServiceError) else Kind.INTERNAL
    return _BY_KIND[kind][0].name


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception, rpc: str) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, ServiceError):
        log.error("call failed", rpc=rpc, error=type(error).__name__, exc_info=error)
        error = InternalError()
    else:
        log.info("call refused", rpc=rpc, reason=error.reason)
    code, http_status = _BY_KIND[error.kind]
    trailers: list[tuple[str, str | bytes]] = [
        (HTTP_STATUS_KEY, str(http_status)),
        (ERROR_BODY_KEY, error_body(error, calls.request_id())),
        (STATUS_DETAILS_KEY, _status(error, code).SerializeToString()),
    ]
    if error.retry_after_seconds is not None:
        trailers.append(("retry-after", str(error.retry_after_seconds)))
    await context.abort(code, _wire_text(error.message), trailing_metadata=tuple(trailers))
    raise AssertionError("abort returned")


def error_body(error: ServiceError, request_id: str) -> str:
    """Return the gateway's JSON error body: plain ASCII, so that it can travel in a header."""
    body = {"error": error.reason.lower(), "message": error.message, "requestId": request_id, **error.extras}
    return json.dumps(body, separators=(",", ":"), default=str)


def _status(error: ServiceError, code: grpc.StatusCode) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)
    for key, value in error.extras.items():
        info.metadata[key] = json.dumps(value, default=str)
    details = [_packed(info)]
    if isinstance(error, ValidationError):
        bad_request = error_details_pb2.BadRequest()
        for issue in error.issues:
            bad_request.field_violations.add(field=_wire_text(issue.path), description=_wire_text(issue.message))
        details.append(_packed(bad_request))
    return status_pb2.Status(code=code_pb2.Code.Value(code.name), message=_wire_text(error.message), details=details)


def _wire_text(text: str) -> str:
    # A caller's own words may stand in an error, and not every string of Python's is UTF-8.
    return text.encode("utf-8", "replace").decode()


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def from_rpc_error(error: grpc.aio.AioRpcError, part: str) -> ServiceError:
    """Return what a failed call to another service means to our own caller.

    What that service said on purpose is passed on; anything else means that it is not to be had now.
    """
    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
        try:
            told = _told_by(error)
        except (ValueError, KeyError, DecodeError):
            told = None  # a newer release's words, perhaps; they are in the log
        if told:
            return told
    log.warning("call to another service failed", part=part, code=error.code().name, details=error.details())
    return UnavailableError(f"{part} can not be reached just now. Send the request again.")


def _told_by(error: grpc.aio.AioRpcError) -> RemoteError | None:
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY:
            status = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
                    extras = {name: json.loads(text) for name, text in info.metadata.items()}
                    return RemoteError(_KIND_OF_CODE[error.code()], info.reason, status.message, extras)
    return None
