"""A real Integrations server in this process, on a fresh SQLite file, and clients for it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from servicekit.clients import open_channel
from servicekit.clock import SystemClock
from servicekit.server import RunningServer
from services.integrations import maintenance, service
from services.integrations.settings import IntegrationsSettings
from textway.integrations.v1 import keys_service_pb2
from textway.integrations.v1.integrations_service_pb2_grpc import IntegrationsServiceStub
from textway.integrations.v1.keys_service_pb2_grpc import KeysServiceStub
from textway.integrations.v1.registry_service_pb2_grpc import RegistryServiceStub
from textway.integrations.v1.webhooks_service_pb2_grpc import WebhooksServiceStub

BOOTSTRAP_KEY = "sk_live_" + "A" * 40


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a client learns from a refused call."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Clients:
    """Stubs of one server."""

    integrations: IntegrationsServiceStub
    webhooks: WebhooksServiceStub
    registry: RegistryServiceStub
    keys: KeysServiceStub


@pytest.fixture
def settings(tmp_path: Path, sqlite_template: Path) -> IntegrationsSettings:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(sqlite_template, data_dir / "integrations.db")
    return IntegrationsSettings(
        data_dir=data_dir,
        integrations_listen="127.0.0.1:0",
        public_url="https://sms.example/",
        bootstrap_key=BOOTSTRAP_KEY,
    )


@pytest.fixture
def serving() -> Callable[[IntegrationsSettings], contextlib.AbstractAsyncContextManager[Clients]]:
    """Serve with some settings, until the block ends."""

    @contextlib.asynccontextmanager
    async def serve(settings: IntegrationsSettings) -> AsyncIterator[Clients]:
        await maintenance.migrate(settings)
        running = await RunningServer.start([await service.build(settings, SystemClock())], settings)
        try:
            async with open_channel(running.addresses["integrations"]) as channel:
                yield Clients(
                    integrations=IntegrationsServiceStub(channel),
                    webhooks=WebhooksServiceStub(channel),
                    registry=RegistryServiceStub(channel),
                    keys=KeysServiceStub(channel),
                )
        finally:
            await running.stop(drain_seconds=0)

    return serve


@pytest.fixture
async def clients(settings, serving) -> AsyncIterator[Clients]:
    async with serving(settings) as served:
        yield served


@pytest.fixture
def owner() -> tuple[tuple[str, str], ...]:
    """Call as the default tenant."""
    return (("authorization", f"Bearer {BOOTSTRAP_KEY}"),)


@pytest.fixture
async def stranger(clients) -> tuple[tuple[str, str], ...]:
    """Call as another tenant."""
    tenant = await clients.keys.CreateTenant(keys_service_pb2.CreateTenantRequest(name="stranger"))
    key = await clients.keys.CreateApiKey(keys_service_pb2.CreateApiKeyRequest(tenant=tenant.id))
    return (("authorization", f"Bearer {key.api_key}"),)


@pytest.fixture
def refusal() -> Callable[[Awaitable[object]], Awaitable[Refusal]]:
    """Make a call that must fail, and read why."""

    async def read(call: Awaitable[object]) -> Refusal:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        trailers = dict(caught.value.trailing_metadata())
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad_request)
        fields = tuple(violation.field for violation in bad_request.field_violations)
        return Refusal(code=caught.value.code(), reason=info.reason, message=status.message, fields=fields)

    return read
