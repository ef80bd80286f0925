"""Integrations and their addresses in SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, delete, func, insert, select, tuple_, update

from servicekit.clock import to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from servicekit.errors import ConflictError, NotFoundError
from servicekit.paging import PageRequest
from services.integrations.domain import Change, Dedupe, Integration, IntegrationChanges, KeptAnswer, sha256
from services.integrations.key_ring import KeyRing
from services.integrations.sql_kept_answers import keep_or_repeat
from services.integrations.sql_rows import (
    LoadedIntegration,
    current_revision,
    disabled_values,
    load_integrations,
    next_revision,
    sealed_secrets,
    select_integrations,
    with_keys,
)
from services.integrations.sql_sealed import count_unreadable, load_sealed, reseal_all
from services.integrations.store import Snapshot
from services.integrations.tables import INGRESS_KEYS, INTEGRATIONS
from services.integrations.webhooks import Disabled, switched

# Each old address is 50 bytes in every watcher's memory and on every change.
MAX_OLD_KEYS: Final = 100
# For what is done with every row, before a process serves: as long as a step of the schema may take.
EVERYTHING_SECONDS: Final = 900.0

_PLAIN_COLUMNS: Final = (
    "name",
    "preset",
    "to_path",
    "text_path",
    "ref_path",
    "for_each",
    "signing_header",
    "outbound_url",
    "default_region",
    "priority",
    "on_unknown",
    "sender",
    "tag",
    "max_segments",
    "on_overflow",
    "reply_window_seconds",
)


class SqlIntegrationStore:
    """An IntegrationStore on a Database."""

    def __init__(self, database: Database, key_ring: KeyRing) -> None:
        self._database = database
        self._key_ring = key_ring

    async def create_integration(self, integration: Integration, keep: KeptAnswer | None = None) -> Change:
        """See IntegrationStore."""
        async with self._database.write() as connection:
            if keep:
                await keep_or_repeat(connection, self._key_ring, keep)
            revision = await next_revision(connection)
            values = self._values(integration, revision)
            await connection.execute(insert(INTEGRATIONS).values(values))
            await self._add_current_key(connection, integration.id, integration.ingress_key)
            return await self._change(connection, integration.id, revision)

    async def get_integration(self, tenant_id: str, integration_id: str) -> Integration:
        """See IntegrationStore."""
        async with self._database.read() as connection:
            return await self._load(connection, tenant_id, integration_id)

    async def list_integrations(self, tenant_id: str, page: PageRequest) -> Sequence[Integration]:
        """See IntegrationStore."""
        key = tuple_(INTEGRATIONS.c.created_at_ms, INTEGRATIONS.c.id)
        query = select_integrations().where(INTEGRATIONS.c.tenant_id == tenant_id)
        if page.after:
            query = query.where(key < page.after)
        query = query.order_by(INTEGRATIONS.c.created_at_ms.desc(), INTEGRATIONS.c.id.desc())
        async with self._database.read() as connection:
            rows = (await connection.execute(query.limit(page.size))).all()
            loaded = await with_keys(connection, rows, [row.id for row in rows])
        return [one.opened(self._key_ring) for one in loaded]

    async def change_integration(
        self, tenant_id: str, integration_id: str, changes: IntegrationChanges, now: datetime
    ) -> Change:
        """See IntegrationStore."""
        async with self._database.write() as connection:
            # What becomes of secrets depends on what they are; the revision's row keeps others from changing them.
            revision = await next_revision(connection)
            before = await self._load(connection, tenant_id, integration_id)
            values = self._changed_values(before, changes, now)
            await _touch(connection, tenant_id, integration_id, revision, now, **values)
            change = await self._change(connection, integration_id, revision)
        (after,) = change.changed
        if before.outbound_disabled and not after.outbound_disabled:
            after = replace(after, outbound_missed_since=before.outbound_disabled.missed_since)
        return replace(change, changed=(after,))

    async def disable_outbound(self, tenant_id: str, integration_id: str, url: str, disabled: Disabled) -> Change:
        """See IntegrationStore."""
        async with self._database.write() as connection:
            revision = await next_revision(connection)
            before = await self._load(connection, tenant_id, integration_id)
            if before.outbound_url != url or before.outbound_disabled:
                raise NotFoundError
            values = disabled_values(disabled, "outbound_")
            await _touch(connection, tenant_id, integration_id, revision, disabled.at, **values)
            return await self._change(connection, integration_id, revision)

    async def delete_integration(self, tenant_id: str, integration_id: str) -> Change:
        """See IntegrationStore."""
        async with self._database.write() as connection:
            revision = await next_revision(connection, deleted_id=integration_id)
            theirs = select(INTEGRATIONS.c.id).where(_belongs(tenant_id, integration_id))
            await connection.execute(delete(INGRESS_KEYS).where(INGRESS_KEYS.c.integration_id.in_(theirs)))
            deleted = await connection.execute(delete(INTEGRATIONS).where(_belongs(tenant_id, integration_id)))
            if not deleted.rowcount:
                raise NotFoundError
        return Change(revision=revision, deleted_ids=(integration_id,))

    async def rotate_ingress_key(
        self,
        tenant_id: str,
        integration_id: str,
        *,
        new_key: str,
        old_keys_expire_at: datetime,
        now: datetime,
        keep: KeptAnswer | None = None,
    ) -> Change:
        """See IntegrationStore."""
        async with self._database.write() as connection:
            if keep:
                await keep_or_repeat(connection, self._key_ring, keep)
            revision = await next_revision(connection)
            await _touch(connection, tenant_id, integration_id, revision, now)
            await _retire_keys(connection, integration_id, to_milliseconds(old_keys_expire_at), to_milliseconds(now))
            await self._add_current_key(connection, integration_id, new_key)
            return await self._change(connection, integration_id, revision)

    async def find_by_ingress_key(self, sha256: bytes) -> Integration | None:
        """See IntegrationStore."""
        owner = select(INGRESS_KEYS.c.integration_id).where(INGRESS_KEYS.c.sha256 == sha256)
        async with self._database.read() as connection:
            loaded = await load_integrations(connection, INTEGRATIONS.c.id.in_(owner))
        return loaded[0].opened(self._key_ring) if loaded else None

    async def snapshot(self, page_size: int) -> Snapshot:
        """See IntegrationStore."""
        async with self._database.read() as connection:
            revision = await current_revision(connection)
            loaded = await load_integrations(connection)
        return Snapshot(revision=revision, pages=self._pages(loaded, page_size))

    async def count_unreadable_secrets(self) -> int:
        """See IntegrationStore."""
        async with self._database.read(patience_seconds=EVERYTHING_SECONDS) as connection:
            stored = await load_sealed(connection)
        # Opened when nobody's transaction is open: it takes longer than reading does.
        return count_unreadable(stored, self._key_ring)

    async def reseal(self) -> int:
        """See IntegrationStore."""
        async with self._database.write(patience_seconds=EVERYTHING_SECONDS) as connection:
            return await reseal_all(connection, self._key_ring)

    def _pages(self, loaded: Sequence[LoadedIntegration], page_size: int) -> Iterator[Sequence[Integration]]:
        # Opened page by page, so that a large snapshot does not hold up the calls beside it.
        for start in range(0, len(loaded), page_size):
            yield [one.opened(self._key_ring) for one in loaded[start : start + page_size]]

    async def _load(self, connection: Connection, tenant_id: str, integration_id: str) -> Integration:
        loaded = await load_integrations(connection, _belongs(tenant_id, integration_id))
        if not loaded:
            raise NotFoundError
        return loaded[0].opened(self._key_ring)

    async def _change(self, connection: Connection, integration_id: str, revision: int) -> Change:
        (loaded,) = await load_integrations(connection, INTEGRATIONS.c.id == integration_id)
        return Change(revision=revision, changed=(loaded.opened(self._key_ring),))

    async def _add_current_key(self, connection: Connection, integration_id: str, key: str) -> None:
        sealed = self._key_ring.seal(key, owner=integration_id)
        values = {"sha256": sha256(key), "integration_id": integration_id, "key_sealed": sealed, "expires_at_ms": None}
        await connection.execute(insert(INGRESS_KEYS).values(values))

    def _changed_values(self, before: Integration, changes: IntegrationChanges, now: datetime) -> dict[str, object]:
        values = {name: getattr(changes, name) for name in _PLAIN_COLUMNS if getattr(changes, name) is not None}
        if changes.dedupe is not None:
            values |= _dedupe_values(changes.dedupe)
        if changes.outbound_events is not None:
            values["outbound_events"] = " ".join(changes.outbound_events)
        if changes.switches_outbound is not None:
            state = switched(before.outbound_disabled, is_enabled=changes.switches_outbound, now=now)
            values |= disabled_values(state, "outbound_")
        secrets = before.secrets.changed(
            changes.signing_secret, overlap_seconds=changes.signing_secret_overlap_seconds, now=now
        )
        if secrets != before.secrets:
            values |= sealed_secrets(self._key_ring, secrets, owner=before.id)
        return values

    def _values(self, integration: Integration, revision: int) -> dict[str, object]:
        return {
            **{name: getattr(integration, name) for name in _PLAIN_COLUMNS},
            **_dedupe_values(integration.dedupe),
            "id": integration.id,
            "tenant_id": integration.tenant_id,
            **sealed_secrets(self._key_ring, integration.secrets, owner=integration.id),
            "outbound_events": " ".join(integration.outbound_events),
            **disabled_values(integration.outbound_disabled, "outbound_"),
            "revision": revision,
            "created_at_ms": to_milliseconds(integration.created_at),
            "updated_at_ms": to_milliseconds(integration.updated_at),
        }


def _dedupe_values(dedupe: Dedupe) -> dict[str, object]:
    return {
        "dedupe_key": dedupe.key,
        "dedupe_window_seconds": dedupe.window_seconds,
        "dedupe_mode": dedupe.mode,
    }


def _belongs(tenant_id: str, integration_id: str) -> ColumnElement[bool]:
    return (INTEGRATIONS.c.tenant_id == tenant_id) & (INTEGRATIONS.c.id == integration_id)


async def _touch(
    connection: Connection, tenant_id: str, integration_id: str, revision: int, now: datetime, **values: object
) -> None:
    """Set values of one integration, or none; raise NotFoundError when the tenant has none of that id."""
    changed = await connection.execute(
        update(INTEGRATIONS)
        .where(_belongs(tenant_id, integration_id))
        .values(revision=revision, updated_at_ms=to_milliseconds(now), **values)
    )
    if not changed.rowcount:
        raise NotFoundError


async def _retire_keys(connection: Connection, integration_id: str, expires_at_ms: int, now_ms: int) -> None:
    """Give every address its end, forget those that are over, and forget how the others read: nobody is shown them."""
    theirs = INGRESS_KEYS.c.integration_id == integration_id
    lasting = INGRESS_KEYS.c.expires_at_ms.is_(None) | (INGRESS_KEYS.c.expires_at_ms > expires_at_ms)
    await connection.execute(
        update(INGRESS_KEYS).where(theirs, lasting).values(expires_at_ms=expires_at_ms, key_sealed=None)
    )
    await connection.execute(delete(INGRESS_KEYS).where(theirs, INGRESS_KEYS.c.expires_at_ms <= now_ms))
    working = (await connection.execute(select(func.count()).select_from(INGRESS_KEYS).where(theirs))).scalar_one()
    if working > MAX_OLD_KEYS:
        raise ConflictError(
            f"{MAX_OLD_KEYS} old addresses of this integration still work."
            " Wait until one expires, or rotate with a shorter overlapSeconds: 0 cuts all of them off."
        )
