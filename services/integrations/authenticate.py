"""Tells whose an API key is."""

from __future__ import annotations

import hmac
from typing import Protocol

from servicekit.errors import UnauthorizedError
from servicekit.ids import has_secret_form, has_valid_checksum
from services.integrations.domain import API_KEY_LENGTH, API_KEY_PREFIX, ApiKey, Caller, Tenant, sha256
from services.integrations.errors import InvalidApiKeyError, TenantInactiveError


class ApiKeys(Protocol):
    """What is asked of storage."""

    async def find_api_key(self, sha256: bytes) -> tuple[ApiKey, Tenant] | None:
        """Return the key of that hash, and its tenant; None when there is none."""


class Authenticator:
    """Answers from the database each time, so that a revoked key and a suspended tenant are refused at once."""

    def __init__(self, keys: ApiKeys, bootstrap_key: str | None = None) -> None:
        self._keys = keys
        # Compared as a hash, in constant time, so that the answer's delay tells nothing of the key.
        self._bootstrap_sha256 = sha256(bootstrap_key) if bootstrap_key else b""

    async def caller_of(self, api_key: str) -> Caller:
        """Return whose key it is; raise UnauthorizedError, InvalidApiKeyError or TenantInactiveError."""
        if not has_secret_form(api_key, API_KEY_PREFIX, API_KEY_LENGTH):
            raise UnauthorizedError(f"An API key is {API_KEY_PREFIX}_ and {API_KEY_LENGTH} letters or digits.")
        digest = sha256(api_key)
        # The bootstrap key is an operator's choice, so it need not have a checksum.
        if not hmac.compare_digest(digest, self._bootstrap_sha256) and not has_valid_checksum(api_key):
            raise InvalidApiKeyError
        found = await self._keys.find_api_key(digest)
        if found is None:
            raise InvalidApiKeyError
        key, tenant = found
        if key.revoked_at is not None:
            raise InvalidApiKeyError
        if not tenant.active:
            raise TenantInactiveError
        return Caller(tenant_id=tenant.id, key_id=key.id)
