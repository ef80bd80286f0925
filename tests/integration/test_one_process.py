"""The whole product in one process: connect a system, post its payload, follow the message to the handset."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from servicekit.clients import open_channel
from servicekit.clock import SystemClock
from servicekit.server import RunningServer
from servicekit.settings import ProcessSettings
from services.delivery import maintenance as delivery_maintenance
from services.delivery import service as delivery
from services.delivery.settings import DeliverySettings
from services.ingress import service as ingress
from services.ingress.settings import IngressSettings
from services.integrations import maintenance as integrations_maintenance
from services.integrations import service as integrations
from services.integrations.settings import IntegrationsSettings
from tests.kit.ports import free_address
from textway.delivery.v1.message_pb2 import Message
from textway.delivery.v1.messages_service_pb2 import GetMessageRequest, GetMessageTimelineRequest
from textway.delivery.v1.messages_service_pb2_grpc import MessagesServiceStub
from textway.ingress.v1.health_service_pb2 import CheckReadyRequest
from textway.ingress.v1.health_service_pb2_grpc import HealthServiceStub
from textway.ingress.v1.ingress_service_pb2 import IngestRequest
from textway.ingress.v1.ingress_service_pb2_grpc import IngressServiceStub
from textway.integrations.v1.integrations_service_pb2 import CreateIntegrationRequest, DeleteIntegrationRequest
from textway.integrations.v1.integrations_service_pb2_grpc import IntegrationsServiceStub
from textway.integrations.v1.keys_service_pb2 import CreateApiKeyRequest
from textway.integrations.v1.keys_service_pb2_grpc import KeysServiceStub
from textway.operations.v1.operations_service_pb2 import GetStatusRequest
from textway.operations.v1.operations_service_pb2_grpc import OperationsServiceStub

PAYLOAD = b'{"order":{"id":4821,"phone":"+65 8123 0000"},"note":"Order #4821 confirmed"}'
LIFE = ["accepted", "attempt_started", "attempt_finished", "receipt"]

Metadata = tuple[tuple[str, str], ...]


async def start(data_dir: Path, *, integrations_at: str, delivery_at: str, ingress_at: str) -> RunningServer:
    """Bring up all three, as `textway serve integrations delivery ingress` does."""
    clock = SystemClock()
    integrations_settings = IntegrationsSettings(data_dir=data_dir, integrations_listen=integrations_at)
    delivery_settings = DeliverySettings(
        data_dir=data_dir, delivery_listen=delivery_at, integrations_address=integrations_at
    )
    ingress_settings = IngressSettings(
        data_dir=data_dir,
        ingress_listen=ingress_at,
        integrations_address=integrations_at,
        delivery_address=delivery_at,
    )
    await integrations_maintenance.migrate(integrations_settings)
    await delivery_maintenance.migrate(delivery_settings)
    services = [
        await integrations.build(integrations_settings, clock),
        await delivery.build(delivery_settings, clock),
        await ingress.build(ingress_settings, clock),
    ]
    return await RunningServer.start(services, ProcessSettings(data_dir=data_dir))


@pytest.fixture
async def running(tmp_path, monkeypatch) -> AsyncIterator[RunningServer]:
    monkeypatch.setenv("TEXTWAY_NOTICE_SECONDS", "0")
    begun_at = time.monotonic()
    integrations_at, delivery_at, ingress_at = (free_address() for _ in range(3))
    running = await start(tmp_path, integrations_at=integrations_at, delivery_at=delivery_at, ingress_at=ingress_at)
    assert time.monotonic() - begun_at < 3
    yield running
    await running.stop(drain_seconds=1)


@pytest.fixture
async def channels(running) -> AsyncIterator[dict[str, grpc.aio.Channel]]:
    channels = {name: open_channel(address) for name, address in running.addresses.items()}
    yield channels
    for channel in channels.values():
        await channel.close()


@pytest.fixture
async def owner(channels) -> Metadata:
    made = await KeysServiceStub(channels["integrations"]).CreateApiKey(CreateApiKeyRequest(name="test"))
    return (("authorization", f"Bearer {made.api_key}"),)


def ingest_request(ingress_key: str) -> IngestRequest:
    return IngestRequest(ingress_key=ingress_key, payload=HttpBody(data=PAYLOAD))


async def events_of(channel: grpc.aio.Channel, owner: Metadata, message_id: str) -> list[str]:
    request = GetMessageTimelineRequest(id=message_id)
    told = await MessagesServiceStub(channel).GetMessageTimeline(request, metadata=owner)
    return [entry.event for entry in told.entries]


async def delivered(channel: grpc.aio.Channel, owner: Metadata, message_id: str) -> Message:
    """Return a message once it is delivered; the worker is its own task, so that it is polled."""
    messages = MessagesServiceStub(channel)
    async with asyncio.timeout(5):
        while True:
            message = await messages.GetMessage(GetMessageRequest(id=message_id), metadata=owner)
            if message.status == "delivered":
                return message
            await asyncio.sleep(0.01)


async def test_any_systems_json_becomes_an_sms(channels, owner):
    integration = await IntegrationsServiceStub(channels["integrations"]).CreateIntegration(
        CreateIntegrationRequest(name="Shop", to_path="order.phone", text_path="note", ref_path="order.id"),
        metadata=owner,
    )

    answer = await IngressServiceStub(channels["ingress"]).Ingest(ingest_request(integration.ingress_key))

    message_id = json.loads(answer.data)["id"]
    message = await delivered(channels["delivery"], owner, message_id)
    assert (message.to, message.text, message.ref) == ("+6581230000", "Order #4821 confirmed", "4821")
    assert message.integration_id == integration.id
    assert message.attempts == 1
    # What is announced before it is known who wants to hear of it is looked at, and then leaves no trace.
    async with asyncio.timeout(5):
        while (told := await events_of(channels["delivery"], owner, message_id)) != LIFE:
            assert [event for event in told if event != "webhook_attempt"] == LIFE
            await asyncio.sleep(0.01)


async def test_a_change_is_in_force_for_the_next_request(channels, owner):
    managing = IntegrationsServiceStub(channels["integrations"])
    receiving = IngressServiceStub(channels["ingress"])
    for _ in range(5):
        integration = await managing.CreateIntegration(
            CreateIntegrationRequest(name="Shop", to_path="order.phone", text_path="note"), metadata=owner
        )
        await receiving.Ingest(ingest_request(integration.ingress_key))
        await managing.DeleteIntegration(DeleteIntegrationRequest(id=integration.id), metadata=owner)

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await receiving.Ingest(ingest_request(integration.ingress_key))

        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_every_part_says_that_it_is_ready(channels):
    answer = await HealthServiceStub(channels["ingress"]).CheckReady(CheckReadyRequest())

    assert answer.status == "ready"
    assert {part.name for part in answer.parts if part.ready} == {"ingress", "integrations", "delivery"}


async def test_every_part_tells_an_operator_how_it_is(channels):
    told = await OperationsServiceStub(channels["delivery"]).GetStatus(GetStatusRequest(), timeout=5)

    by_name = {each.readiness.name: each for each in told.services}
    assert set(by_name) == {"integrations", "delivery", "ingress"}
    assert not any(each.readiness.problems for each in told.services)
    assert [carrier.state for carrier in by_name["delivery"].carriers] == ["healthy"]
    assert by_name["delivery"].HasField("messages")
    assert by_name["integrations"].disabled_webhooks == 0
    assert told.version
    assert told.up_seconds > 0


async def test_stops_within_its_time_while_the_parts_watch_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTWAY_NOTICE_SECONDS", "0")
    integrations_at, delivery_at, ingress_at = (free_address() for _ in range(3))
    running = await start(tmp_path, integrations_at=integrations_at, delivery_at=delivery_at, ingress_at=ingress_at)

    async with asyncio.timeout(3):
        await running.stop(drain_seconds=1)


async def test_says_that_the_disk_is_full_before_anything_has_to_be_written(channels, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)

    told = await OperationsServiceStub(channels["delivery"]).GetStatus(GetStatusRequest())

    full = ["its disk can not be written: No space left on device"]
    problems = {service.readiness.name: service.readiness.problems for service in told.services}
    assert problems == {"integrations": full, "delivery": full, "ingress": []}
