"""A real Delivery behind real gRPC, on a SQLite file, with a registry of API keys that a test directs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from pydantic import SecretStr

from servicekit.clients import open_channel
from servicekit.clock import SystemClock
from servicekit.errors import Kind, ServiceError
from servicekit.ids import new_secret
from servicekit.server import CALL_GRACE_SECONDS, RunningServer
from services.delivery import service
from services.delivery.settings import DeliverySettings
from tests.kit.ports import free_address
from textway.delivery.v1 import message_pb2, messages_service_pb2
from textway.delivery.v1.messages_service_pb2_grpc import MessagesServiceStub
from textway.delivery.v1.submission_service_pb2_grpc import SubmissionServiceStub
from textway.integrations.v1 import registry_service_pb2
from textway.integrations.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)

PATIENCE_SECONDS = 5.0

Metadata = tuple[tuple[str, str], ...]


class ShiftedClock(SystemClock):
    """The machine's clock, which a test can put forward."""

    def __init__(self) -> None:
        self.shift_seconds = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.shift_seconds)

    def monotonic(self) -> float:
        return super().monotonic() + self.shift_seconds


class NobodysKeyError(ServiceError):
    """What Integrations says of a key that it does not know."""

    kind = Kind.UNAUTHENTICATED
    reason = "INVALID_API_KEY"


class FakeRegistry(RegistryServiceServicer):
    """Integrations' internal service, as far as Delivery asks it: whose is this key, and where do events go?"""

    name = "registry"
    grpc_services = ("textway.integrations.v1.RegistryService",)

    def __init__(self, listen: str) -> None:
        self.listen, self.metrics_listen = listen, ""
        self.tenants_by_key: dict[str, str] = {}
        self.asked: list[str] = []
        self.integrations: dict[tuple[str, str], registry_service_pb2.IntegrationTarget] = {}
        self.webhooks: dict[str, registry_service_pb2.WebhookTarget] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def AuthenticateApiKey(self, request, context):  # the contract's name
        self.asked.append(request.api_key)
        await self.may_answer.wait()
        tenant_id = self.tenants_by_key.get(request.api_key)
        if tenant_id is None:
            raise NobodysKeyError("This API key is not valid: it is mistyped, unknown or revoked.")
        return registry_service_pb2.AuthenticateApiKeyResponse(tenant_id=tenant_id, key_id="key_x")

    async def GetWebhookTargets(self, request, context):  # the contract's name
        return registry_service_pb2.GetWebhookTargetsResponse(
            integration=self.integrations.get((request.tenant_id, request.integration_id)),
            webhook=self.webhooks.get(request.tenant_id),
        )

    async def DisableWebhookTarget(self, request, context):  # the contract's name
        webhook = self.webhooks.get(request.tenant_id)
        if request.integration_id:
            webhook = self.integrations[request.tenant_id, request.integration_id].outbound
        is_disabled = webhook is not None and webhook.url == request.url
        if is_disabled:
            webhook.enabled = False
        return registry_service_pb2.DisableWebhookTargetResponse(is_disabled=is_disabled)

    def add_to(self, server: grpc.aio.Server) -> None:
        add_RegistryServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Nothing to finish."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a client learns from a refused call."""

    code: grpc.StatusCode
    reason: str
    message: str
    http_status: str
    fields: tuple[str, ...]


@dataclass(kw_only=True)
class World:
    """Delivery and its neighbour, each of which can be stopped and started."""

    registry: FakeRegistry
    settings: DeliverySettings
    clock: ShiftedClock
    running: dict[str, RunningServer] = field(default_factory=dict)
    channel: grpc.aio.Channel | None = None

    async def serve_registry(self) -> None:
        self.running["registry"] = await RunningServer.start([self.registry], self.settings)

    async def serve_delivery(self) -> None:
        built = await service.build(self.settings, self.clock)
        self.running["delivery"] = await RunningServer.start([built], self.settings)
        self.channel = open_channel(self.running["delivery"].addresses["delivery"])

    async def stop(self, name: str) -> None:
        if name == "delivery" and self.channel:
            await self.channel.close()
        await self.running.pop(name).stop(drain_seconds=0)

    @property
    def messages(self) -> MessagesServiceStub:
        return MessagesServiceStub(self.channel)

    @property
    def submissions(self) -> SubmissionServiceStub:
        return SubmissionServiceStub(self.channel)


@pytest.fixture
async def unstarted_world(
    tmp_path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setenv("TEXTWAY_NOTICE_SECONDS", "0")
    settings = DeliverySettings(
        data_dir=tmp_path / "data",
        delivery_listen="127.0.0.1:0",
        integrations_address=free_address(),
        # Of these, what is not finished after a fifth of a second is recorded as unknown.
        drain_seconds=CALL_GRACE_SECONDS + 0.2,
    )
    world = World(registry=FakeRegistry(settings.integrations_address), settings=settings, clock=ShiftedClock())
    settings.data_dir.mkdir()
    shutil.copy(sqlite_template, settings.data_dir / "delivery.db")
    yield world
    for name in list(world.running):
        await world.stop(name)


@pytest.fixture
def on_postgres(unstarted_world: World, postgres_with_schemas: str) -> None:
    """Give Delivery a PostgreSQL in place of its file, before it is started."""
    url = SecretStr(postgres_with_schemas)
    unstarted_world.settings = unstarted_world.settings.model_copy(update={"delivery_database_url": url})


@pytest.fixture
async def world(unstarted_world: World) -> World:
    await unstarted_world.serve_registry()
    await unstarted_world.serve_delivery()
    return unstarted_world


@pytest.fixture
def messages(world: World) -> MessagesServiceStub:
    return world.messages


@pytest.fixture
def submissions(world: World) -> SubmissionServiceStub:
    return world.submissions


@pytest.fixture
def caller(unstarted_world: World) -> Callable[[str], Metadata]:
    """Make a new key for a tenant, and the header that carries it."""

    def call_as(tenant_id: str) -> Metadata:
        key = new_secret("sk_live", 40)
        unstarted_world.registry.tenants_by_key[key] = tenant_id
        return (("authorization", f"Bearer {key}"),)

    return call_as


@pytest.fixture
def owner(caller: Callable[[str], Metadata]) -> Metadata:
    return caller("ten_mine")


@pytest.fixture
def stranger(caller: Callable[[str], Metadata]) -> Metadata:
    return caller("ten_other")


async def message_with(
    messages: MessagesServiceStub, owner: Metadata, message_id: str, *statuses: str
) -> message_pb2.Message:
    """Return a message as soon as it has one of these statuses; the worker is its own task, so that it is polled."""
    request = messages_service_pb2.GetMessageRequest(id=message_id)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            message = await messages.GetMessage(request, metadata=owner)
            if message.status in statuses:
                return message
            await asyncio.sleep(0.01)


async def refusal_of(call: Awaitable[object]) -> Refusal:
    """Make a call that must fail, and read why."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
    return Refusal(
        code=caught.value.code(),
        reason=info.reason,
        message=status.message,
        http_status=trailers["x-http-status"],
        fields=tuple(violation.field for violation in bad_request.field_violations),
    )
