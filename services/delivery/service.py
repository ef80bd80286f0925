"""Puts Delivery together; the only file here that names concrete classes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc

from servicekit import clients, migrations
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.server import CALL_GRACE_SECONDS
from services.delivery.accept_messages import AcceptMessages
from services.delivery.api_keys import ApiKeys
from services.delivery.carriers.base import Capability
from services.delivery.carriers.http import Gateway
from services.delivery.carriers.registry import Carriers
from services.delivery.dispatch import Dispatcher
from services.delivery.follow_up import FollowUp
from services.delivery.housekeeping import Housekeeping
from services.delivery.servicer import MessagesServicer, SubmissionServicer
from services.delivery.settings import DeliverySettings
from services.delivery.sql_store import SqlMessageStore
from services.delivery.worker import Worker
from textway.delivery.v1 import (
    messages_service_pb2,
    messages_service_pb2_grpc,
    submission_service_pb2,
    submission_service_pb2_grpc,
)
from textway.integrations.v1 import registry_service_pb2_grpc

MIGRATIONS: Final = Path(__file__).parent / "migrations"
VERSION_TABLE: Final = "delivery_schema_version"


class DeliveryService:
    """Delivery, ready to be served."""

    name = "delivery"
    grpc_services: Sequence[str] = (
        messages_service_pb2.DESCRIPTOR.services_by_name["MessagesService"].full_name,
        submission_service_pb2.DESCRIPTOR.services_by_name["SubmissionService"].full_name,
    )

    def __init__(self, settings: DeliverySettings, database: Database, carriers: Carriers, clock: Clock) -> None:
        self.listen = settings.delivery_listen
        self._drain_seconds = max(0.0, settings.drain_seconds - CALL_GRACE_SECONDS)
        self._database = database
        self._carriers = carriers
        self._clock = clock
        self._integrations = clients.open_channel(settings.integrations_address)
        self._keys = ApiKeys(registry_service_pb2_grpc.RegistryServiceStub(self._integrations), clock)
        self._store = SqlMessageStore(database)
        self._follow_up = FollowUp(store=self._store, carriers=carriers, clock=clock)
        self._dispatcher = Dispatcher(
            store=self._store,
            carriers=carriers,
            clock=clock,
            random=random.random,
            max_in_flight=settings.delivery_in_flight,
            on_room=lambda: self._worker.wake(),  # noqa: PLW0108  # the worker does not exist yet
            lease_seconds=settings.lease_seconds,
            evidence_seconds=settings.evidence_seconds,
        )
        self._worker = Worker(
            store=self._store,
            dispatcher=self._dispatcher,
            follow_up=self._follow_up,
            housekeeping=Housekeeping(
                store=self._store,
                clock=clock,
                shards=range(settings.delivery_shards),
                retention=timedelta(days=settings.retention_days),
            ),
            clock=clock,
            random=random.random,
            shards=range(settings.delivery_shards),
            renew_seconds=settings.lease_seconds / 3,
        )
        self._accepting = AcceptMessages(
            store=self._store,
            clock=clock,
            shards=settings.delivery_shards,
            validity=timedelta(seconds=settings.message_validity_seconds),
            on_stored=self._worker.wake,
        )

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register both servicers."""
        messages_service_pb2_grpc.add_MessagesServiceServicer_to_server(
            MessagesServicer(
                keys=self._keys,
                accepting=self._accepting,
                store=self._store,
                clock=self._clock,
                on_requeued=self._worker.wake,
            ),
            server,
        )
        submission_service_pb2_grpc.add_SubmissionServiceServicer_to_server(
            SubmissionServicer(accepting=self._accepting, carriers=self._carriers), server
        )

    async def start(self) -> None:
        """Begin to send."""
        if self._database.is_exclusive:
            await self._store.release_leases(self._clock.now())
        for carrier in self._carriers:
            await carrier.start(self._follow_up)
        await self._worker.start()

    async def stop(self) -> None:
        """Finish what is in flight, then close carriers, channel and database."""
        await self._worker.stop(self._drain_seconds)
        for carrier in self._carriers:
            await carrier.stop()
        await self._accepting.drain()
        await self._follow_up.drain()
        await self._integrations.close()
        await self._database.close()


async def build(settings: DeliverySettings, clock: Clock) -> DeliveryService:
    """Open the database and build the service; raise SettingsError when its schema is not current."""
    database = Database.open(settings.database_url, name="textway-delivery")
    try:
        await migrations.require_current(database, MIGRATIONS, VERSION_TABLE)
    except BaseException:
        await database.close()
        raise
    carriers = Carriers.configured(gateway=_gateway(settings), simulator_sender=settings.simulator_number, clock=clock)
    return DeliveryService(settings, database, carriers, clock)


def _gateway(settings: DeliverySettings) -> Gateway | None:
    if not settings.carrier_url:
        return None
    return Gateway(
        url=settings.carrier_url,
        sender=settings.carrier_sender,
        capability=Capability(settings.carrier_capability),
        token=settings.carrier_token.get_secret_value().strip(),
    )


async def migrate(settings: DeliverySettings) -> None:
    """Bring the schema to the newest step."""
    database = Database.open(settings.database_url, name="textway-delivery")
    try:
        await migrations.migrate(database, MIGRATIONS, VERSION_TABLE)
    finally:
        await database.close()
