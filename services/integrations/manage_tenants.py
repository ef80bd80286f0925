"""What an operator does: make tenants and API keys, list them, suspend, resume and revoke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from servicekit.clock import Clock
from servicekit.errors import NotFoundError
from servicekit.ids import is_id, new_id, new_secret
from servicekit.settings import SettingsError
from services.integrations import validation
from services.integrations.commit_changes import ChangeFeed
from services.integrations.domain import (
    API_KEY_HINT_LENGTH,
    API_KEY_ID_PREFIX,
    API_KEY_LENGTH,
    API_KEY_PREFIX,
    DEFAULT_TENANT,
    TENANT_PREFIX,
    ApiKey,
    Change,
    Tenant,
    sha256,
)
from services.integrations.store import TenantStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class NewApiKey:
    """A key with its secret, to be shown this once."""

    key: ApiKey
    secret: str = field(repr=False)


class ManageTenants:
    """A tenant is named by its id or its name; empty means the default one. Raises NotFoundError for an unknown one."""

    def __init__(self, *, store: TenantStore, changes: ChangeFeed, clock: Clock) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock

    async def prepare(self, bootstrap_key: str | None) -> None:
        """Make what every installation has: the default tenant, and its bootstrap key where one is set.

        May be repeated. Raises SettingsError when the bootstrap key is another tenant's.
        """
        tenant = await self._store.ensure_tenant(self._tenant(DEFAULT_TENANT))
        if bootstrap_key:
            wanted = self._api_key(tenant.id, "bootstrap", bootstrap_key)
            stored = await self._store.ensure_api_key(wanted, sha256(bootstrap_key))
            if stored.tenant_id != tenant.id:
                raise SettingsError("TEXTWAY_BOOTSTRAP_KEY: this key belongs to another tenant than the default one")
            if stored.revoked_at is not None:
                # Whoever revoked it knew something that the settings do not.
                log.warning("the bootstrap key has been revoked and stays so", key_id=stored.id)

    async def create_tenant(self, name: str) -> Tenant:
        """Make a tenant; raise ValidationError or AlreadyExistsError."""
        tenant = self._tenant(validation.tenant_name(name))
        await self._store.create_tenant(tenant)
        return tenant

    async def list_tenants(self) -> Sequence[Tenant]:
        """Return all tenants, oldest first."""
        return await self._store.list_tenants()

    async def set_active(self, id_or_name: str, *, active: bool) -> Tenant:
        """Suspend a tenant or let it work again; return when that is in force."""
        tenant = await self._find(id_or_name)
        done: list[Tenant] = []

        async def write() -> Change:
            changed, change = await self._store.set_tenant_active(tenant.id, active=active)
            done.append(changed)
            return change

        await self._changes.commit(write)
        return done[0]

    async def create_api_key(self, id_or_name: str, name: str) -> NewApiKey:
        """Make a key; its secret is returned here and nowhere else."""
        name = validation.api_key_name(name)
        tenant = await self._find(id_or_name)
        secret = new_secret(API_KEY_PREFIX, API_KEY_LENGTH)
        key = self._api_key(tenant.id, name, secret)
        await self._store.add_api_key(key, sha256(secret))
        return NewApiKey(key=key, secret=secret)

    async def list_api_keys(self, id_or_name: str) -> Sequence[ApiKey]:
        """Return a tenant's keys, revoked ones too, oldest first."""
        tenant = await self._find(id_or_name)
        return await self._store.list_api_keys(tenant.id)

    async def revoke_api_key(self, key_id: str) -> ApiKey:
        """Make a key useless at once."""
        if not is_id(key_id, API_KEY_ID_PREFIX):
            raise NotFoundError("There is no API key of this id.")
        return await self._store.revoke_api_key(key_id, self._clock.now())

    async def _find(self, id_or_name: str) -> Tenant:
        return await self._store.find_tenant(id_or_name.strip() or DEFAULT_TENANT)

    def _tenant(self, name: str) -> Tenant:
        now = self._clock.now()
        return Tenant(id=new_id(TENANT_PREFIX, now), name=name, active=True, created_at=now)

    def _api_key(self, tenant_id: str, name: str, secret: str) -> ApiKey:
        now = self._clock.now()
        return ApiKey(
            id=new_id(API_KEY_ID_PREFIX, now),
            tenant_id=tenant_id,
            name=name,
            hint=secret[:API_KEY_HINT_LENGTH],
            created_at=now,
        )
