"""Asks another service of the product whether it can take work."""

from __future__ import annotations

from typing import Final

import grpc

from servicekit import clients
from servicekit.errors import ServiceError
from textway.operations.v1.operations_service_pb2 import CheckReadinessRequest
from textway.operations.v1.operations_service_pb2_grpc import OperationsServiceStub

CALL_SECONDS: Final = 2.0


class PartHealth:
    """One service's own word on itself, of whichever of its replicas takes the call."""

    def __init__(self, channel: grpc.aio.Channel, *, part: str) -> None:
        self._operations = OperationsServiceStub(channel)
        self._part = part

    async def readiness(self) -> tuple[bool, str]:
        """Return whether the service can take work, and what is wrong; answers within two seconds."""
        try:
            answer = await clients.call(
                self._operations.CheckReadiness, CheckReadinessRequest(), part=self._part, timeout_seconds=CALL_SECONDS
            )
        except ServiceError:
            return False, "does not answer"
        problems = [
            problem for service in answer.services if service.name == self._part.lower() for problem in service.problems
        ]
        return not problems, "; ".join(problems)
