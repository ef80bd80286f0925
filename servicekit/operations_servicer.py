"""How a process is, for those who operate it: whether its services can take work, and what they say of themselves."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import grpc
import structlog

from servicekit.errors import UnavailableError
from textway.operations.v1 import operations_service_pb2 as operations_v1
from textway.operations.v1.operations_service_pb2_grpc import (
    OperationsServiceServicer,
    add_OperationsServiceServicer_to_server,
)

# Whoever asks waits for somewhat more than that.
ANSWER_SECONDS: Final = 1.5
NO_DATABASE: Final = "its database does not answer"

Context = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class Named(Protocol):
    """A service."""

    @property
    def name(self) -> str:
        """Its name in commands, settings and logs."""


@runtime_checkable
class KnowsItsState(Protocol):
    """A service that says how it is. It answers within a second and a half, or is taken not to be ready."""

    async def problems(self) -> Sequence[str]:
        """Return what keeps it from taking work, each in a few words; nothing when it can."""

    async def status(self) -> operations_v1.ServiceStatus:
        """Return what else an operator may want to know."""


class Operations(OperationsServiceServicer):
    """Answers for all services of a process."""

    def __init__(self, services: Sequence[Named], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._monotonic = monotonic
        self._started_at = monotonic()
        self._passing = "is starting"

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register it."""
        add_OperationsServiceServicer_to_server(self, server)

    def serving(self) -> None:
        """Take note that all services have started."""
        self._passing = ""

    def stopping(self) -> None:
        """Take note that the process is to end."""
        self._passing = "is stopping"

    async def CheckReadiness(
        self, request: operations_v1.CheckReadinessRequest, context: Context
    ) -> operations_v1.CheckReadinessResponse:
        """Ask every service what it lacks."""
        return operations_v1.CheckReadinessResponse(services=await self._of_each(self._readiness))

    async def GetStatus(
        self, request: operations_v1.GetStatusRequest, context: Context
    ) -> operations_v1.GetStatusResponse:
        """Ask every service how it is."""
        return operations_v1.GetStatusResponse(
            version=importlib.metadata.version("textway"),
            up_seconds=self._monotonic() - self._started_at,
            services=await self._of_each(self._status),
        )

    async def _of_each(self, ask: Callable[[Named], Awaitable[Answer]]) -> list[Answer]:
        return list(await asyncio.gather(*(ask(service) for service in self._services)))

    async def _readiness(self, service: Named) -> operations_v1.Readiness:
        problems = [self._passing] if self._passing else []
        if isinstance(service, KnowsItsState):
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    problems += await service.problems()
            except (TimeoutError, UnavailableError):
                problems.append(NO_DATABASE)
        return operations_v1.Readiness(name=service.name, problems=problems)

    async def _status(self, service: Named) -> operations_v1.ServiceStatus:
        status = operations_v1.ServiceStatus()
        readiness = await self._readiness(service)
        if isinstance(service, KnowsItsState) and NO_DATABASE not in readiness.problems:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status = await service.status()
            except (TimeoutError, UnavailableError) as error:
                log.warning("no status", service=service.name, error=type(error).__name__)
        status.readiness.CopyFrom(readiness)
        return status
