"""Ingress' gRPC methods: convert, call, convert."""

from __future__ import annotations

from typing import Any, Protocol

import grpc
from google.api.httpbody_pb2 import HttpBody

from servicekit import calls
from servicekit.idempotency import replay_header
from services.ingress import convert
from services.ingress.check_readiness import CheckReadiness
from services.ingress.explain_payload import ExplainPayload
from services.ingress.receive_payload import ReceivePayload
from textway.ingress.v1 import health_service_pb2 as health_v1
from textway.ingress.v1 import ingress_service_pb2 as ingress_v1
from textway.ingress.v1.health_service_pb2_grpc import HealthServiceServicer
from textway.ingress.v1.ingress_service_pb2_grpc import IngressServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]


class TenantsByKey(Protocol):
    """Who knows whose an API key is."""

    async def tenant_of(self, api_key: str) -> str:
        """Return the owner's `ten_` id; raise a ServiceError for a key that is nobody's."""


class IngressServicer(IngressServiceServicer):
    """Payloads, for real and as a dry run."""

    def __init__(self, *, receive: ReceivePayload, explain: ExplainPayload, api_keys: TenantsByKey) -> None:
        self._receive = receive
        self._explain = explain
        self._api_keys = api_keys

    async def Ingest(self, request: ingress_v1.IngestRequest, context: Context) -> HttpBody:
        """Accept the messages that a payload means."""
        accepted = await self._receive(
            ingress_key=convert.path_variable(request.ingress_key, context),
            payload=convert.payload_from(request.payload, context),
        )
        # The gateway's route says 202: to say it here would be a message of its own, ahead of each answer.
        if accepted.replayed:
            await calls.answer_with(context, 202, **replay_header(replayed=True))
        return convert.ingest_answer(accepted)

    async def Explain(self, request: ingress_v1.ExplainRequest, context: Context) -> ingress_v1.ExplainResponse:
        """Show what a payload would become."""
        tenant_id = await self._api_keys.tenant_of(calls.bearer_token(context))
        explanation = await self._explain(
            tenant_id=tenant_id,
            integration_id=convert.path_variable(request.integration_id, context),
            payload=convert.payload_from(request.payload, context),
        )
        return convert.explain_response(explanation)


class HealthServicer(HealthServiceServicer):
    """The product's health, for load balancers and people."""

    def __init__(self, *, check_readiness: CheckReadiness) -> None:
        self._check_readiness = check_readiness

    async def CheckLive(self, request: health_v1.CheckLiveRequest, context: Context) -> health_v1.CheckLiveResponse:
        """Answer."""
        return health_v1.CheckLiveResponse(status="live")

    async def CheckReady(self, request: health_v1.CheckReadyRequest, context: Context) -> health_v1.CheckReadyResponse:
        """Tell which parts are ready; HTTP 503 when one is not."""
        parts = await self._check_readiness()
        if not all(part.is_ready for part in parts):
            await calls.answer_with(context, 503)
        return convert.ready_response(parts)
