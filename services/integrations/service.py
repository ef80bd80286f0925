"""Puts Integrations together: the only file that names concrete classes."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import structlog

from servicekit import schema
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.egress_names import SystemNames, UrlGuard
from services.integrations import maintenance
from services.integrations.authenticate import Authenticator
from services.integrations.commit_changes import ChangeFeed
from services.integrations.domain import Change
from services.integrations.find_targets import FindTargets
from services.integrations.follow_changes import Follower
from services.integrations.key_ring import KeyRing
from services.integrations.load_presets import presets
from services.integrations.manage_integrations import ManageIntegrations
from services.integrations.manage_tenants import ManageTenants
from services.integrations.manage_webhooks import ManageWebhooks
from services.integrations.servicer import IntegrationsServicer, KeysServicer, RegistryServicer
from services.integrations.settings import IntegrationsSettings
from services.integrations.sql_nodes import SqlNodeStore
from services.integrations.sql_store import SqlIntegrationStore
from services.integrations.sql_tenant_store import SqlTenantStore
from services.integrations.sql_webhook_store import SqlWebhookStore
from services.integrations.watch_integrations import WatchIntegrations
from services.integrations.watchers import Broadcaster
from services.integrations.webhooks_servicer import WebhooksServicer
from textway.integrations.v1 import (
    integrations_service_pb2,
    keys_service_pb2,
    registry_service_pb2,
    webhooks_service_pb2,
)
from textway.integrations.v1.integrations_service_pb2_grpc import add_IntegrationsServiceServicer_to_server
from textway.integrations.v1.keys_service_pb2_grpc import add_KeysServiceServicer_to_server
from textway.integrations.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from textway.integrations.v1.webhooks_service_pb2_grpc import add_WebhooksServiceServicer_to_server
from textway.operations.v1 import operations_service_pb2

log = structlog.get_logger(__name__)


class IntegrationsService:
    """Integrations, ready to be served."""

    name = "integrations"
    grpc_services: Sequence[str] = tuple(
        descriptor.full_name
        for module in (integrations_service_pb2, webhooks_service_pb2, registry_service_pb2, keys_service_pb2)
        for descriptor in module.DESCRIPTOR.services_by_name.values()
    )

    def __init__(self, *, settings: IntegrationsSettings, clock: Clock, database: Database, key_ring: KeyRing) -> None:
        self.listen = settings.integrations_listen
        self.metrics_listen = settings.integrations_metrics_listen
        self._bootstrap_key = settings.bootstrap_key.get_secret_value() if settings.bootstrap_key else None
        self._database = database
        self._broadcaster: Broadcaster[Change] = Broadcaster(clock)
        self._follower = (
            None
            if database.is_exclusive
            else Follower(nodes=SqlNodeStore(database, key_ring), broadcaster=self._broadcaster, clock=clock)
        )
        self._changes = ChangeFeed(self._broadcaster, self._follower)
        self._names = SystemNames()
        tenants = SqlTenantStore(database, key_ring)
        integrations = SqlIntegrationStore(database, key_ring)
        webhooks = SqlWebhookStore(database, key_ring)
        urls = UrlGuard(settings.egress_policy(settings.public_url), self._names)
        authenticator = Authenticator(tenants, self._bootstrap_key)
        self._schema = schema.SchemaCheck(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
        self._webhooks = webhooks
        self._tenants = ManageTenants(store=tenants, changes=self._changes, clock=clock)
        self._keys_servicer = KeysServicer(self._tenants)
        self._integrations_servicer = IntegrationsServicer(
            authenticator=authenticator,
            manage=ManageIntegrations(
                store=integrations,
                changes=self._changes,
                presets=presets(),
                urls=urls,
                clock=clock,
            ),
            public_url=settings.public_url,
        )
        self._webhooks_servicer = WebhooksServicer(
            authenticator=authenticator, manage=ManageWebhooks(store=webhooks, urls=urls, clock=clock)
        )
        self._registry_servicer = RegistryServicer(
            authenticator=authenticator,
            watch=WatchIntegrations(store=integrations, broadcaster=self._broadcaster, clock=clock),
            targets=FindTargets(webhooks=webhooks, integrations=integrations, changes=self._changes, clock=clock),
        )

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the servicers."""
        add_IntegrationsServiceServicer_to_server(self._integrations_servicer, server)
        add_WebhooksServiceServicer_to_server(self._webhooks_servicer, server)
        add_RegistryServiceServicer_to_server(self._registry_servicer, server)
        add_KeysServiceServicer_to_server(self._keys_servicer, server)

    async def problems(self) -> Sequence[str]:
        """Return what keeps it from answering. Raises UnavailableError."""
        problems = [await self._schema.problem(), self._database.problem()]
        return [problem for problem in problems if problem]

    async def status(self) -> operations_service_pb2.ServiceStatus:
        """Return how many URLs are disabled. Raises UnavailableError."""
        return operations_service_pb2.ServiceStatus(disabled_webhooks=await self._webhooks.count_disabled())

    async def start(self) -> None:
        """Join the processes that share the database, and make what is missing; when that fails, close all."""
        try:
            if self._follower:
                await self._follower.start()
            await self._tenants.prepare(self._bootstrap_key)
        except BaseException:
            await self.stop()
            raise

    def end_streams(self) -> None:
        """End every watch stream, since none would end by itself; no new one comes while the server stops."""
        self._broadcaster.close()

    async def stop(self) -> None:
        """Finish the changes that are under way, then let go of the database."""
        self._broadcaster.close()
        await self._changes.drain()
        if self._follower:
            await self._follower.stop()
        self._names.close()
        await self._database.close()


async def build(settings: IntegrationsSettings, clock: Clock) -> IntegrationsService:
    """Return the service; raise SettingsError when migrations are pending or the key ring does not fit the database."""
    database = maintenance.open_database(settings)
    try:
        await schema.require_usable(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
        key_ring = await maintenance.open_key_ring(database, settings)
    except BaseException:
        await database.close()
        raise
    return IntegrationsService(settings=settings, clock=clock, database=database, key_ring=key_ring)
