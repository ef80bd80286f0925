"""A process that serves gRPC: health, reflection, one place for errors, and a stop that finishes what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from servicekit import tls, tracing
from servicekit.clients import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from servicekit.error_translation import guarded
from servicekit.metrics_endpoint import MetricsEndpoint
from servicekit.operations_servicer import Operations
from servicekit.settings import MAX_PORT, UNIX, ProcessSettings, SettingsError

MAX_CONCURRENT_CALLS: Final = 4_096
MAX_CALLS_PER_CONNECTION: Final = 1_024
# Shorter than a restart takes: a client that looked the name up just while one replica was out of it knows that one
# again before the next is stopped.
MAX_CONNECTION_AGE_SECONDS: Final = 6.0
# No call in hand lives longer than the gateway's own deadline.
CALL_GRACE_SECONDS: Final = 5.0

_OPTIONS: Final = (
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Without this, two processes share one port in silence and each sees half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
    # A client that is cut off without a word does not keep its calls and its connection for hours.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Our clients ask every few seconds whether we are there; gRPC takes that for an attack and hangs up.
    ("grpc.http2.max_ping_strikes", 0),
)

log = structlog.get_logger(__name__)


class Service(Protocol):
    """One service of the product, built and ready to be served."""

    @property
    def name(self) -> str:
        """The service's name in commands, settings and logs."""

    @property
    def listen(self) -> str:
        """The `host:port` that it is served on."""

    @property
    def metrics_listen(self) -> str:
        """The `host:port` that its metrics are read on; empty for nowhere."""

    @property
    def grpc_services(self) -> Sequence[str]:
        """The full names of its gRPC services, for health and reflection."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register its servicers."""

    async def start(self) -> None:
        """Begin its background work; return when calls may come."""

    async def stop(self) -> None:
        """Finish or give back its background work, then close what it has open."""


@runtime_checkable
class HasStreams(Protocol):
    """A service with calls that would never end by themselves."""

    def end_streams(self) -> None:
        """End those calls now, and refuse new ones: the server is stopping."""


class RunningServer:
    """Services that are being served by one gRPC server."""

    def __init__(
        self,
        *,
        server: grpc.aio.Server,
        checks: health.aio.HealthServicer,
        services: Sequence[Service],
        addresses: Mapping[str, str],
        notice_seconds: float,
        operations: Operations,
        metrics: MetricsEndpoint,
    ) -> None:
        self._notice_seconds = notice_seconds
        self._operations = operations
        self._server = server
        self._checks = checks
        self._services = services
        # Where each service is reached, by its name: what it was told to listen on, with the port that it got for 0.
        self.addresses = addresses
        self._metrics = metrics

    @classmethod
    async def start(cls, services: Sequence[Service], settings: ProcessSettings) -> RunningServer:
        """Serve; raise SettingsError when an address can not be had, or the certificate can not be used."""
        identity = tls.identity(settings)
        listens = dict.fromkeys(service.listen for service in services)
        server = grpc.aio.server(options=_options(listens), maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS)
        registry = guarded(server)
        checks = health.aio.HealthServicer()
        await checks.set("", health_pb2.HealthCheckResponse.NOT_SERVING)  # or it would say SERVING as it starts
        health_pb2_grpc.add_HealthServicer_to_server(checks, registry)
        names = [name for service in services for name in service.grpc_services]
        if settings.grpc_reflection:
            reflected = reflection.aio.ReflectionServicer([*names, reflection.SERVICE_NAME])
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, registry)
        operations = Operations(services)
        operations.add_to(registry)
        for service in services:
            service.add_to(registry)
        bound = {listen: _bind(server, listen, identity) for listen in listens}
        # First the listener: services in one process call each other as they start. Callers from outside wait for
        # SERVING.
        await server.start()
        metrics = MetricsEndpoint()
        try:
            await metrics.start(service.metrics_listen for service in services)
            await _start_all(services, checks)
        except BaseException:
            await metrics.stop()
            await server.stop(0)
            raise
        operations.serving()
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        addresses = {service.name: bound[service.listen] for service in services}
        log.info("serving", **addresses, metrics=[*metrics.addresses.values()])
        return cls(
            server=server,
            checks=checks,
            services=services,
            addresses=addresses,
            notice_seconds=settings.notice_seconds,
            operations=operations,
            metrics=metrics,
        )

    async def stop(self, drain_seconds: float) -> None:
        """Say NOT_SERVING, finish the calls in hand, stop the services in reverse order."""
        self._operations.stopping()
        await self._checks.enter_graceful_shutdown()
        await asyncio.sleep(self._notice_seconds)
        for service in self._services:
            if isinstance(service, HasStreams):
                service.end_streams()
        await self._server.stop(min(CALL_GRACE_SECONDS, drain_seconds))
        for service in reversed(self._services):
            await service.stop()
        await self._metrics.stop()
        log.info("stopped", services=[service.name for service in self._services])


async def serve_until_signal(services: Sequence[Service], settings: ProcessSettings) -> None:
    """Serve until SIGTERM or SIGINT, then stop gracefully."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    running = await RunningServer.start(services, settings)
    try:
        await stopping.wait()
    finally:
        await running.stop(settings.drain_seconds)
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(number)
        tracing.shutdown()


def _options(listens: Iterable[str]) -> tuple[tuple[str, int], ...]:
    if all(listen.startswith(UNIX) for listen in listens):
        return _OPTIONS
    # Clients look a service's name up again when a connection ends, and so find new replicas. What is under way on the
    # connection goes on, a watch for as long as it likes.
    return (*_OPTIONS, ("grpc.max_connection_age_ms", int(MAX_CONNECTION_AGE_SECONDS * 1000)))


async def _start_all(services: Sequence[Service], checks: health.aio.HealthServicer) -> None:
    started: list[Service] = []
    try:
        for service in services:
            await service.start()
            started.append(service)
            # At once, because the next one in this process may call it as it starts.
            for name in service.grpc_services:
                await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    except BaseException:
        for service in reversed(started):
            await service.stop()
        raise


def _bind(server: grpc.aio.Server, listen: str, identity: tls.Identity | None) -> str:
    is_socket = listen.startswith(UNIX)
    if not is_socket and int(listen.rpartition(":")[2]) > MAX_PORT:
        raise SettingsError(f"{listen} has a port above {MAX_PORT}")
    try:
        if identity is None or is_socket:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, identity.server_credentials())
    except RuntimeError:
        port = 0
    if not port:
        hint = "is its folder there, and may it be written to?" if is_socket else "is something else using that port?"
        raise SettingsError(f"{listen} can not be listened on: {hint}")
    return listen if is_socket else f"{listen.rpartition(':')[0]}:{port}"
