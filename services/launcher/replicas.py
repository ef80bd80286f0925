"""Finds every replica behind the services' names, and asks each how it is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import grpc

from servicekit import clients, tls
from servicekit.errors import ServiceError
from servicekit.settings import UNIX
from services.launcher import gateway_process, tls_mismatch
from services.launcher.runtime import running_address, running_addresses
from services.launcher.settings import StatusSettings
from textway.operations.v1 import operations_service_pb2 as operations_v1
from textway.operations.v1.operations_service_pb2_grpc import OperationsServiceStub

RESOLVE_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 4.0
NOT_ANSWERING: Final = "does not answer"


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One process that serves a service, or the gateway's, and what it says of itself."""

    service: str
    address: str
    status: operations_v1.ServiceStatus | None = None  # None when it does not answer, and for the gateway
    version: str = ""
    up_seconds: float = 0.0
    problem: str = ""

    @property
    def is_answering(self) -> bool:
        """Whether it has said anything of itself."""
        return bool(self.version)

    @property
    def is_ready(self) -> bool:
        """Whether it can take work."""
        return not self.problem


async def all_replicas(settings: StatusSettings) -> list[Replica]:
    """Ask all at once, within some seconds; one that can not be found or does not answer is told of as such.

    None are returned when nothing answers and nobody has said where anything would be.
    """
    identity = tls.identity(settings)
    found = await asyncio.gather(
        *(_of_service(*each, identity) for each in _addresses(settings)),
        asyncio.to_thread(_gateway, settings.data_dir),
    )
    replicas = [replica for replicas in found for replica in replicas]
    if not _is_said_where(settings) and not any(replica.is_answering for replica in replicas):
        return []
    return replicas


def _is_said_where(settings: StatusSettings) -> bool:
    return any(
        f"{service}_address" in settings.model_fields_set or running_addresses(settings.data_dir, service)
        for service, _ in _addresses(settings)
    )


def _addresses(settings: StatusSettings) -> Iterator[tuple[str, str]]:
    said = {
        "integrations": settings.integrations_address,
        "delivery": settings.delivery_address,
        "ingress": settings.ingress_address,
    }
    for name, address in said.items():
        for running in running_addresses(settings.data_dir, name) or [address]:
            yield name, running


def _gateway(data_dir: Path) -> list[Replica]:
    # One in a container can be asked within that container only; the container engine does.
    address, admin = running_address(data_dir, "gateway"), running_address(data_dir, "gateway_admin")
    if address is None or admin is None:
        return []
    try:
        running = gateway_process.ask(Path(admin), timeout_seconds=ANSWER_SECONDS)
    except OSError:
        return [Replica(service="gateway", address=address, problem=NOT_ANSWERING)]
    return [
        Replica(
            service="gateway",
            address=address,
            version=running.version,
            up_seconds=running.up_seconds,
            problem="" if running.is_live else "is starting or stopping",
        )
    ]


async def _of_service(service: str, address: str, identity: tls.Identity | None) -> list[Replica]:
    try:
        found = await asyncio.wait_for(_resolve(address), RESOLVE_SECONDS)
    except (OSError, TimeoutError):
        return [Replica(service=service, address=address, problem="there is no such name")]
    return list(await asyncio.gather(*(_of_replica(service, address, one, identity) for one in found)))


async def _resolve(address: str) -> list[str]:
    if address.startswith(UNIX):
        return [address]
    host, _, port = address.rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    hosts = sorted({str(each[4][0]) for each in found})
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


async def _of_replica(service: str, name: str, address: str, identity: tls.Identity | None) -> Replica:
    replica = await _ask(service, address, _channel(name, address, identity))
    if replica.problem != NOT_ANSWERING:
        return replica
    why = await asyncio.to_thread(tls_mismatch.between, address, is_secured=identity is not None)
    return replace(replica, problem=why or NOT_ANSWERING)


async def _ask(service: str, address: str, opened: grpc.aio.Channel) -> Replica:
    async with opened as channel:
        try:
            answer = await clients.call(
                OperationsServiceStub(channel).GetStatus,
                operations_v1.GetStatusRequest(),
                part=service.capitalize(),
                timeout_seconds=ANSWER_SECONDS,
            )
        except ServiceError:
            return Replica(service=service, address=address, problem=NOT_ANSWERING)
    status = next((each for each in answer.services if each.readiness.name == service), None)
    if status is None:
        others = ", ".join(each.readiness.name for each in answer.services)
        return Replica(service=service, address=address, problem=f"serves {others or 'nothing'} instead")
    return Replica(
        service=service,
        address=address,
        status=status,
        version=answer.version,
        up_seconds=answer.up_seconds,
        problem="; ".join(status.readiness.problems),
    )


def _channel(name: str, address: str, identity: tls.Identity | None) -> grpc.aio.Channel:
    # A replica's certificate names the service, and not its address of today.
    return clients.open_channel(address, identity, called="" if name == address else name.rpartition(":")[0])
