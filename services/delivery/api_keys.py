"""Who is asking: API keys, as Integrations knows them."""

from __future__ import annotations

from typing import Final

from servicekit import clients
from servicekit.clock import Clock
from servicekit.fresh_cache import FreshCache
from textway.integrations.v1 import registry_service_pb2, registry_service_pb2_grpc

FRESH_SECONDS: Final = 1.0
STALE_SECONDS: Final = 60.0
TIMEOUT_SECONDS: Final = 2.0


class ApiKeys:
    """Asks Integrations, at most once a second for each key, and remembers for a minute while Integrations is down."""

    def __init__(self, registry: registry_service_pb2_grpc.RegistryServiceAsyncStub, clock: Clock) -> None:
        self._registry = registry
        self._tenants = FreshCache(self._ask, clock=clock, fresh_seconds=FRESH_SECONDS, stale_seconds=STALE_SECONDS)

    async def tenant_of(self, api_key: str) -> str:
        """Return the id of the key's tenant; raise the error that the caller is to see."""
        return await self._tenants.get(api_key)

    async def _ask(self, api_key: str) -> str:
        answer: registry_service_pb2.AuthenticateApiKeyResponse = await clients.call(
            self._registry.AuthenticateApiKey,
            registry_service_pb2.AuthenticateApiKeyRequest(api_key=api_key),
            part="Integrations",
            timeout_seconds=TIMEOUT_SECONDS,
        )
        return answer.tenant_id
