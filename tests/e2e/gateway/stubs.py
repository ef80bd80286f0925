"""Stand-ins for the three services: real gRPC servers that remember every call and answer as a test tells them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.api import httpbody_pb2
from google.protobuf import empty_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from servicekit import calls, server
from servicekit.error_translation import guarded
from textway.delivery.v1 import (
    callbacks_service_pb2_grpc,
    carriers_service_pb2,
    carriers_service_pb2_grpc,
    message_pb2,
    messages_service_pb2,
    messages_service_pb2_grpc,
    submission_service_pb2_grpc,
    webhook_deliveries_service_pb2,
    webhook_deliveries_service_pb2_grpc,
    webhook_examples_service_pb2,
    webhook_examples_service_pb2_grpc,
)
from textway.ingress.v1 import (
    health_service_pb2,
    health_service_pb2_grpc,
    ingress_service_pb2,
    ingress_service_pb2_grpc,
)
from textway.integrations.v1 import (
    integration_pb2,
    integrations_service_pb2,
    integrations_service_pb2_grpc,
    webhooks_service_pb2,
    webhooks_service_pb2_grpc,
)

T = TypeVar("T")
Context = grpc.aio.ServicerContext
Behaviour = Callable[[Any, Context], Awaitable[Any]]

ANSWERS: dict[str, Any] = {
    "CreateIntegration": integration_pb2.Integration(id="wkh_1", name="Order system"),
    "ListIntegrations": integrations_service_pb2.ListIntegrationsResponse(),
    "GetIntegration": integration_pb2.Integration(id="wkh_1"),
    "ReplaceIntegration": integration_pb2.Integration(id="wkh_1"),
    "UpdateIntegration": integration_pb2.Integration(id="wkh_1"),
    "DeleteIntegration": empty_pb2.Empty(),
    "RotateIngressKey": integrations_service_pb2.RotateIngressKeyResponse(id="wkh_1"),
    "PutWebhook": webhooks_service_pb2.Webhook(url="https://receiver.example/", enabled=True, signing_secret="whsec_x"),
    "GetWebhook": webhooks_service_pb2.Webhook(url="https://receiver.example/", enabled=True),
    "DeleteWebhook": empty_pb2.Empty(),
    "RotateWebhookSecret": webhooks_service_pb2.RotateWebhookSecretResponse(signing_secret="whsec_y"),
    "Ingest": httpbody_pb2.HttpBody(
        content_type="application/json",
        data=b'{"id":"msg_1","status":"queued","to":"+6581230000","text":"hi","ref":""}',
    ),
    "Explain": ingress_service_pb2.ExplainResponse(verdict="accepted"),
    "CheckLive": health_service_pb2.CheckLiveResponse(status="live"),
    "CheckReady": health_service_pb2.CheckReadyResponse(status="ready"),
    "SendMessage": messages_service_pb2.SendMessageResponse(id="msg_1", status="queued"),
    "ListMessages": messages_service_pb2.ListMessagesResponse(),
    "GetMessage": message_pb2.Message(id="msg_1", status="delivered"),
    "GetMessageTimeline": messages_service_pb2.GetMessageTimelineResponse(id="msg_1"),
    "CancelMessage": message_pb2.Message(id="msg_1", status="canceled"),
    "ResolveMessage": message_pb2.Message(id="msg_1", status="failed"),
    "ListWebhookDeliveries": webhook_deliveries_service_pb2.ListWebhookDeliveriesResponse(),
    "GetWebhookDelivery": webhook_deliveries_service_pb2.WebhookDelivery(id="whd_1", status="failed"),
    "ReplayWebhookDelivery": webhook_deliveries_service_pb2.WebhookDelivery(id="whd_1", status="pending"),
    "ReplayWebhookDeliveries": webhook_deliveries_service_pb2.ReplayWebhookDeliveriesResponse(count=7),
    "SendIntegrationExample": webhook_examples_service_pb2.WebhookExample(delivered=True),
    "SendWebhookExample": webhook_examples_service_pb2.WebhookExample(delivered=True),
    "ListCarriers": carriers_service_pb2.ListCarriersResponse(),
    "ReceiveStatus": httpbody_pb2.HttpBody(),
    "ReceiveInbound": httpbody_pb2.HttpBody(),
    "SubmitMessages": None,
    "FindRequest": None,
    "PreviewMessage": None,
}
HTTP_STATUS = {"CreateIntegration": 201, "SendMessage": 202, "ReceiveStatus": 204, "ReceiveInbound": 204}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call that reached a stub."""

    method: str
    request: Any
    metadata: tuple[tuple[str, str | bytes], ...]
    time_remaining: float | None

    def headers(self, name: str) -> list[str | bytes]:
        return [value for key, value in self.metadata if key == name]


@dataclass
class Stubs:
    """The servers, what reached them, and what they are to do instead of answering well."""

    calls: list[Call] = field(default_factory=list)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    _servers: dict[str, grpc.aio.Server] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def start(self, name: str) -> None:
        self.run(self._start(name))

    def stop(self, name: str) -> None:
        self.run(self._servers.pop(name).stop(None))

    def close(self) -> None:
        for name in list(self._servers):
            self.stop(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def forget(self) -> None:
        self.calls.clear()
        self.behaviours.clear()

    async def _start(self, name: str) -> None:
        grpc_server = grpc.aio.server(options=server._OPTIONS)
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, grpc_server)
        for base, add in _SERVICERS[name]:
            methods = {method: self._method(method) for method in vars(base) if not method.startswith("_")}
            add(type(base.__name__, (base,), methods)(), guarded(grpc_server))
        port = grpc_server.add_insecure_port(self.addresses.get(name, "127.0.0.1:0"))
        self.addresses[name] = f"127.0.0.1:{port}"
        await grpc_server.start()
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        self._servers[name] = grpc_server

    def _method(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def serve(_servicer: object, request: Any, context: Context) -> Any:
            metadata = tuple((str(key), value) for key, value in context.invocation_metadata() or ())
            self.calls.append(
                Call(method=name, request=request, metadata=metadata, time_remaining=context.time_remaining())
            )
            if name in self.behaviours:
                return await self.behaviours[name](request, context)
            if name in HTTP_STATUS:
                await calls.answer_with(context, HTTP_STATUS[name])
            return ANSWERS[name]

        return serve


_SERVICERS: dict[str, list[tuple[type, Callable[..., None]]]] = {
    "integrations": [
        (
            integrations_service_pb2_grpc.IntegrationsServiceServicer,
            integrations_service_pb2_grpc.add_IntegrationsServiceServicer_to_server,
        ),
        (
            webhooks_service_pb2_grpc.WebhooksServiceServicer,
            webhooks_service_pb2_grpc.add_WebhooksServiceServicer_to_server,
        ),
    ],
    "ingress": [
        (
            ingress_service_pb2_grpc.IngressServiceServicer,
            ingress_service_pb2_grpc.add_IngressServiceServicer_to_server,
        ),
        (health_service_pb2_grpc.HealthServiceServicer, health_service_pb2_grpc.add_HealthServiceServicer_to_server),
    ],
    "delivery": [
        (
            messages_service_pb2_grpc.MessagesServiceServicer,
            messages_service_pb2_grpc.add_MessagesServiceServicer_to_server,
        ),
        (
            submission_service_pb2_grpc.SubmissionServiceServicer,
            submission_service_pb2_grpc.add_SubmissionServiceServicer_to_server,
        ),
        (
            carriers_service_pb2_grpc.CarriersServiceServicer,
            carriers_service_pb2_grpc.add_CarriersServiceServicer_to_server,
        ),
        (
            callbacks_service_pb2_grpc.CallbacksServiceServicer,
            callbacks_service_pb2_grpc.add_CallbacksServiceServicer_to_server,
        ),
        (
            webhook_deliveries_service_pb2_grpc.WebhookDeliveriesServiceServicer,
            webhook_deliveries_service_pb2_grpc.add_WebhookDeliveriesServiceServicer_to_server,
        ),
        (
            webhook_examples_service_pb2_grpc.WebhookExamplesServiceServicer,
            webhook_examples_service_pb2_grpc.add_WebhookExamplesServiceServicer_to_server,
        ),
    ],
}
