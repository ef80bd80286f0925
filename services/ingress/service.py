"""Wiring: the only file of Ingress that names concrete classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc

from servicekit import tls
from servicekit.clients import open_channel
from servicekit.clock import Clock
from services.ingress.api_keys import ApiKeys
from services.ingress.check_readiness import CheckReadiness
from services.ingress.delivery_outbox import DeliveryOutbox
from services.ingress.explain_payload import ExplainPayload
from services.ingress.integrations_replica import IntegrationsReplica
from services.ingress.part_health import PartHealth
from services.ingress.receive_payload import ReceivePayload
from services.ingress.servicer import HealthServicer, IngressServicer
from services.ingress.settings import IngressSettings
from services.ingress.turns import Turns
from textway.delivery.v1 import submission_service_pb2
from textway.delivery.v1.submission_service_pb2_grpc import SubmissionServiceStub
from textway.ingress.v1 import health_service_pb2, ingress_service_pb2
from textway.ingress.v1.health_service_pb2_grpc import add_HealthServiceServicer_to_server
from textway.ingress.v1.ingress_service_pb2_grpc import add_IngressServiceServicer_to_server
from textway.integrations.v1 import registry_service_pb2
from textway.integrations.v1.registry_service_pb2_grpc import RegistryServiceStub
from textway.operations.v1 import operations_service_pb2

FIRST_SNAPSHOT_SECONDS: Final = 5.0
REGISTRY: Final = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
SUBMISSION: Final = submission_service_pb2.DESCRIPTOR.services_by_name["SubmissionService"].full_name


class IngressService:
    """Ingress, built and ready to be served."""

    name = "ingress"
    grpc_services: Sequence[str] = (
        ingress_service_pb2.DESCRIPTOR.services_by_name["IngressService"].full_name,
        health_service_pb2.DESCRIPTOR.services_by_name["HealthService"].full_name,
    )

    def __init__(
        self,
        *,
        listen: str,
        metrics_listen: str,
        servicers: tuple[IngressServicer, HealthServicer],
        replica: IntegrationsReplica,
        outbox: DeliveryOutbox,
        channels: Sequence[grpc.aio.Channel],
    ) -> None:
        self.listen = listen
        self.metrics_listen = metrics_listen
        self._servicers = servicers
        self._replica = replica
        self._outbox = outbox
        self._channels = channels

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the servicers."""
        ingress, health = self._servicers
        add_IngressServiceServicer_to_server(ingress, server)
        add_HealthServiceServicer_to_server(health, server)

    async def problems(self) -> Sequence[str]:
        """Return what keeps payloads from being taken."""
        is_ready, detail = await self._replica.readiness()
        return [] if is_ready else [detail]

    async def status(self) -> operations_service_pb2.ServiceStatus:
        """Return nothing more: it owns no table."""
        return operations_service_pb2.ServiceStatus()

    async def start(self) -> None:
        """Open the watch. Integrations may start later, so that its silence is no failure."""
        await self._replica.start(FIRST_SNAPSHOT_SECONDS)

    async def stop(self) -> None:
        """Hand in what was taken, then close the watch and the channels."""
        await self._outbox.drain()
        await self._replica.stop()
        for channel in self._channels:
            await channel.close()


async def build(settings: IngressSettings, clock: Clock) -> IngressService:
    """Return the service; nothing is connected before it is started."""
    identity = tls.identity(settings)
    integrations = open_channel(settings.integrations_address, identity, health_of=REGISTRY)
    delivery = open_channel(settings.delivery_address, identity, health_of=SUBMISSION)
    registry = RegistryServiceStub(integrations)
    replica = IntegrationsReplica(registry, clock=clock, known_for_seconds=settings.known_for_seconds)
    outbox = DeliveryOutbox(SubmissionServiceStub(delivery))
    check_readiness = CheckReadiness(
        {
            "ingress": replica.readiness,
            "integrations": PartHealth(integrations, part="Integrations").readiness,
            "delivery": PartHealth(delivery, part="Delivery").readiness,
        }
    )
    max_messages, turns = settings.max_messages_per_request, Turns()
    ingress = IngressServicer(
        receive=ReceivePayload(
            integrations=replica, outbox=outbox, clock=clock, max_messages=max_messages, turns=turns
        ),
        explain=ExplainPayload(
            integrations=replica, previewer=outbox, clock=clock, max_messages=max_messages, turns=turns
        ),
        api_keys=ApiKeys(registry, clock=clock),
    )
    return IngressService(
        listen=settings.ingress_listen,
        metrics_listen=settings.ingress_metrics_listen,
        servicers=(ingress, HealthServicer(check_readiness=check_readiness)),
        replica=replica,
        outbox=outbox,
        channels=(integrations, delivery),
    )
