"""An Ingress that says 202 and dies before it has said more, or before it says anything: `ADDRESS before|after`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from servicekit import calls
from textway.ingress.v1 import (
    health_service_pb2,
    health_service_pb2_grpc,
    ingress_service_pb2,
    ingress_service_pb2_grpc,
)


class Ingress(ingress_service_pb2_grpc.IngressServiceServicer):
    def __init__(self, when: str) -> None:
        self._when = when

    async def Ingest(self, request: ingress_service_pb2.IngestRequest, context: Any) -> Any:
        if self._when == "after":
            await calls.answer_with(context, 202)
            await asyncio.sleep(0.2)
        os._exit(1)


class Live(health_service_pb2_grpc.HealthServiceServicer):
    async def CheckLive(self, request: health_service_pb2.CheckLiveRequest, context: Any) -> Any:
        return health_service_pb2.CheckLiveResponse(status="live")


async def main(address: str, when: str) -> None:
    server = grpc.aio.server()
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    ingress_service_pb2_grpc.add_IngressServiceServicer_to_server(Ingress(when), server)
    health_service_pb2_grpc.add_HealthServiceServicer_to_server(Live(), server)
    server.add_insecure_port(address)
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
