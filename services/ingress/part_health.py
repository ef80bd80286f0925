"""Asks another service of the product whether it can take work."""

from __future__ import annotations

from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit import clients
from servicekit.errors import ServiceError

CALL_SECONDS: Final = 1.0


class PartHealth:
    """One service's own word on its health (`grpc.health.v1`)."""

    def __init__(self, channel: grpc.aio.Channel, *, part: str) -> None:
        self._health = health_pb2_grpc.HealthStub(channel)
        self._part = part

    async def readiness(self) -> tuple[bool, str]:
        """Return whether the service says that it serves, and what is wrong; answers within a second."""
        try:
            answer = await clients.call(
                self._health.Check, health_pb2.HealthCheckRequest(), part=self._part, timeout_seconds=CALL_SECONDS
            )
        except ServiceError:
            return False, "does not answer"
        is_ready = answer.status == health_pb2.HealthCheckResponse.SERVING
        return is_ready, "" if is_ready else "is starting or stopping"
