"""CarriersService's RPCs: convert, call, convert."""

from __future__ import annotations

from typing import Any

import grpc

from servicekit import calls
from services.delivery import carriers_convert
from services.delivery.api_keys import ApiKeys
from services.delivery.carrier_states import KnowsCarriers
from textway.delivery.v1 import carriers_service_pb2, carriers_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class CarriersServicer(carriers_service_pb2_grpc.CarriersServiceServicer):
    """Tells how the carriers are; every call is made with an API key."""

    def __init__(self, *, keys: ApiKeys, carriers: KnowsCarriers) -> None:
        self._keys = keys
        self._carriers = carriers

    async def ListCarriers(
        self, request: carriers_service_pb2.ListCarriersRequest, context: Context
    ) -> carriers_service_pb2.ListCarriersResponse:
        """List every carrier with its state."""
        await self._keys.tenant_of(calls.bearer_token(context))
        return carriers_convert.list_response(self._carriers.overview())
