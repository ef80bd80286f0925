"""Whose an API key is, by Integrations' word, remembered for a moment."""

from __future__ import annotations

import hashlib
from typing import Final

from servicekit import clients
from servicekit.clock import Clock
from servicekit.errors import UnauthorizedError
from servicekit.fresh_cache import FreshCache
from servicekit.ids import has_secret_form
from textway.integrations.v1 import registry_service_pb2_grpc
from textway.integrations.v1.registry_service_pb2 import AuthenticateApiKeyRequest

KEY_PREFIX: Final = "sk_live"
KEY_LENGTH: Final = 40
FRESH_SECONDS: Final = 1.0
STALE_SECONDS: Final = 60.0
CALL_SECONDS: Final = 2.0


class ApiKeys:
    """Tells whose a key is. A revoked key is refused within a second; while Integrations is down, within a minute."""

    def __init__(self, registry: registry_service_pb2_grpc.RegistryServiceAsyncStub, *, clock: Clock) -> None:
        self._registry = registry
        # Answers are remembered by the key's hash; the key itself is held only while it is asked about.
        self._asked: dict[bytes, str] = {}
        self._answers = FreshCache(self._ask, clock=clock, fresh_seconds=FRESH_SECONDS, stale_seconds=STALE_SECONDS)

    async def tenant_of(self, api_key: str) -> str:
        """Return the `ten_` id of a key's owner; raise UnauthorizedError or what was answered.

        The checksum is Integrations' to judge: the key that an installation is started with may have any.
        """
        if not has_secret_form(api_key, KEY_PREFIX, KEY_LENGTH):
            raise UnauthorizedError("An API key reads `sk_live_` and 40 letters and digits.")
        sha256 = hashlib.sha256(api_key.encode()).digest()
        self._asked[sha256] = api_key
        try:
            return await self._answers.get(sha256)
        finally:
            self._asked.pop(sha256, None)

    async def _ask(self, sha256: bytes) -> str:
        request = AuthenticateApiKeyRequest(api_key=self._asked[sha256])
        response = await clients.call(
            self._registry.AuthenticateApiKey, request, part="Integrations", timeout_seconds=CALL_SECONDS
        )
        return str(response.tenant_id)
