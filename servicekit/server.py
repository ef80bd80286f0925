"""A process that serves gRPC: health, reflection, one place for errors, and a stop that finishes what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from servicekit import tls
from servicekit.clients import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from servicekit.error_translation import ErrorInterceptor
from servicekit.metrics_endpoint import MetricsEndpoint
from servicekit.operations_servicer import Operations
from servicekit.settings import MAX_PORT, ProcessSettings, SettingsError

MAX_CONCURRENT_CALLS: Final = 4_096
# How long callers get to see NOT_SERVING before the listener closes.
NOTICE_SECONDS: Final = 0.2
# No call in hand lives longer than the gateway's own deadline.
CALL_GRACE_SECONDS: Final = 5.0

_OPTIONS: Final = (
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Without this, two processes share one port in silence and each sees half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
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
        operations: Operations,
        metrics: MetricsEndpoint,
    ) -> None:
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
        server = grpc.aio.server(
            interceptors=[ErrorInterceptor()], options=_OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS
        )
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        names = [name for service in services for name in service.grpc_services]
        if settings.grpc_reflection:
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
        operations = Operations(services)
        operations.add_to(server)
        for service in services:
            service.add_to(server)
        listens = dict.fromkeys(service.listen for service in services)
        bound = {listen: _bind(server, listen, identity) for listen in listens}
        # First the listener: services in one process call each other as they start. Callers from outside wait for
        # SERVING.
        await server.start()
        metrics = MetricsEndpoint()
        try:
            await metrics.start(service.metrics_listen for service in services)
            await _start_all(services)
        except BaseException:
            await metrics.stop()
            await server.stop(0)
            raise
        operations.serving()
        for name in ("", *names):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        addresses = {service.name: bound[service.listen] for service in services}
        log.info("serving", **addresses, metrics=[*metrics.addresses.values()])
        return cls(
            server=server,
            checks=checks,
            services=services,
            addresses=addresses,
            operations=operations,
            metrics=metrics,
        )

    async def stop(self, drain_seconds: float) -> None:
        """Say NOT_SERVING, finish the calls in hand, stop the services in reverse order."""
        self._operations.stopping()
        await self._checks.enter_graceful_shutdown()
        await asyncio.sleep(NOTICE_SECONDS)
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


async def _start_all(services: Sequence[Service]) -> None:
    started: list[Service] = []
    try:
        for service in services:
            await service.start()
            started.append(service)
    except BaseException:
        for service in reversed(started):
            await service.stop()
        raise


def _bind(server: grpc.aio.Server, listen: str, identity: tls.Identity | None) -> str:
    if int(listen.rpartition(":")[2]) > MAX_PORT:
        raise SettingsError(f"{listen} has a port above {MAX_PORT}")
    try:
        if identity is None:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, identity.server_credentials())
    except RuntimeError:
        port = 0
    if not port:
        raise SettingsError(f"{listen} can not be listened on: is something else using that port?")
    return f"{listen.rpartition(':')[0]}:{port}"
