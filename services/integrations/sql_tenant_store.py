"""Tenants and API keys in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.errors import AlreadyExistsError, NotFoundError
from services.integrations.domain import ApiKey, Change, Tenant
from services.integrations.key_ring import KeyRing
from services.integrations.sql_rows import (
    api_key_from,
    insert_where_none_is,
    load_integrations,
    next_revision,
    tenant_from,
)
from services.integrations.tables import API_KEYS, INTEGRATIONS, TENANTS


class SqlTenantStore:
    """A TenantStore on a Database."""

    def __init__(self, database: Database, key_ring: KeyRing) -> None:
        self._database = database
        self._key_ring = key_ring

    async def ensure_tenant(self, tenant: Tenant) -> Tenant:
        """See TenantStore."""
        row = _tenant_values(tenant)
        async with self._database.write() as connection:
            # Processes that start at once all find none.
            await connection.execute(insert_where_none_is(connection, TENANTS, row, unique=[TENANTS.c.name]))
            return await _first_tenant(connection, TENANTS.c.name == tenant.name) or tenant

    async def create_tenant(self, tenant: Tenant) -> None:
        """See TenantStore."""
        try:
            async with self._database.write() as connection:
                await connection.execute(insert(TENANTS).values(_tenant_values(tenant)))
        except IntegrityError:
            raise AlreadyExistsError("There is a tenant of this name already.") from None

    async def list_tenants(self) -> Sequence[Tenant]:
        """See TenantStore."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(TENANTS).order_by(TENANTS.c.created_at_ms, TENANTS.c.id))
            return [tenant_from(row) for row in rows]

    async def find_tenant(self, id_or_name: str) -> Tenant:
        """See TenantStore."""
        async with self._database.read() as connection:
            tenant = await _first_tenant(connection, (TENANTS.c.id == id_or_name) | (TENANTS.c.name == id_or_name))
        if tenant is None:
            raise NotFoundError("There is no tenant of this id or name.")
        return tenant

    async def set_tenant_active(self, tenant_id: str, *, active: bool) -> tuple[Tenant, Change]:
        """See TenantStore."""
        async with self._database.write() as connection:
            revision = await next_revision(connection)
            await connection.execute(update(TENANTS).where(TENANTS.c.id == tenant_id).values(active=active))
            tenant = await _first_tenant(connection, TENANTS.c.id == tenant_id)
            if tenant is None:
                raise NotFoundError("There is no tenant of this id or name.")
            theirs = INTEGRATIONS.c.tenant_id == tenant_id
            await connection.execute(update(INTEGRATIONS).where(theirs).values(revision=revision))
            loaded = await load_integrations(connection, theirs)
        return tenant, Change(revision=revision, changed=[one.opened(self._key_ring) for one in loaded])

    async def add_api_key(self, key: ApiKey, sha256: bytes) -> None:
        """See TenantStore."""
        try:
            async with self._database.write() as connection:
                await connection.execute(insert(API_KEYS).values(_api_key_values(key, sha256)))
        except IntegrityError:
            raise AlreadyExistsError("There is an API key like this already.") from None

    async def ensure_api_key(self, key: ApiKey, sha256: bytes) -> ApiKey:
        """See TenantStore."""
        async with self._database.write() as connection:
            row = _api_key_values(key, sha256)
            await connection.execute(insert_where_none_is(connection, API_KEYS, row, unique=[API_KEYS.c.sha256]))
            stored = await connection.execute(select(API_KEYS).where(API_KEYS.c.sha256 == sha256))
            return api_key_from(stored.one())

    async def find_api_key(self, sha256: bytes) -> tuple[ApiKey, Tenant] | None:
        """See TenantStore."""
        async with self._database.read() as connection:
            key = (await connection.execute(select(API_KEYS).where(API_KEYS.c.sha256 == sha256))).first()
            tenant = key and await _first_tenant(connection, TENANTS.c.id == key.tenant_id)
        return (api_key_from(key), tenant) if key and tenant else None

    async def list_api_keys(self, tenant_id: str) -> Sequence[ApiKey]:
        """See TenantStore."""
        query = select(API_KEYS).where(API_KEYS.c.tenant_id == tenant_id)
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(API_KEYS.c.created_at_ms, API_KEYS.c.id))
            return [api_key_from(row) for row in rows]

    async def revoke_api_key(self, key_id: str, now: datetime) -> ApiKey:
        """See TenantStore."""
        working = (API_KEYS.c.id == key_id) & API_KEYS.c.revoked_at_ms.is_(None)
        async with self._database.write() as connection:
            await connection.execute(update(API_KEYS).where(working).values(revoked_at_ms=to_milliseconds(now)))
            row: Row[tuple[object, ...]] | None = (
                await connection.execute(select(API_KEYS).where(API_KEYS.c.id == key_id))
            ).first()
        if row is None:
            raise NotFoundError("There is no API key of this id.")
        return api_key_from(row)


async def _first_tenant(connection: Connection, condition: ColumnElement[bool]) -> Tenant | None:
    row = (await connection.execute(select(TENANTS).where(condition))).first()
    return tenant_from(row) if row else None


def _tenant_values(tenant: Tenant) -> dict[str, object]:
    return {
        "id": tenant.id,
        "name": tenant.name,
        "active": tenant.active,
        "created_at_ms": to_milliseconds(tenant.created_at),
    }


def _api_key_values(key: ApiKey, sha256: bytes) -> dict[str, object]:
    return {
        "id": key.id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "hint": key.hint,
        "sha256": sha256,
        "created_at_ms": to_milliseconds(key.created_at),
        "revoked_at_ms": to_milliseconds(key.revoked_at) if key.revoked_at else None,
    }
