"""Tenants' webhooks in SQL, and where events go."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import delete, func, insert, select, update

from servicekit.clock import from_milliseconds, to_milliseconds
from servicekit.connection import Connection
from servicekit.database import Database
from services.integrations.domain import KeptAnswer
from services.integrations.errors import NoWebhookConfigError
from services.integrations.key_ring import KeyRing
from services.integrations.signing_secrets import SigningSecrets
from services.integrations.sql_kept_answers import keep_or_repeat
from services.integrations.sql_rows import (
    AnyRow,
    disabled_from,
    disabled_values,
    events_from,
    opened_secrets,
    sealed_secrets,
)
from services.integrations.tables import INTEGRATIONS, TENANTS, WEBHOOKS
from services.integrations.webhooks import (
    DEFAULT_EVENTS,
    Disabled,
    IntegrationTarget,
    SavedWebhook,
    Target,
    Targets,
    Webhook,
    WebhookFields,
    switched,
)


class SqlWebhookStore:
    """A WebhookStore on a Database."""

    def __init__(self, database: Database, key_ring: KeyRing) -> None:
        self._database = database
        self._key_ring = key_ring

    async def put_webhook(
        self, tenant_id: str, fields: WebhookFields, *, new_secret: str, now: datetime
    ) -> SavedWebhook:
        """See WebhookStore."""
        async with self._database.write() as connection:
            before = await self._locked(connection, tenant_id)
            disabled = switched(before.disabled if before else None, is_enabled=fields.is_enabled, now=now)
            webhook = Webhook(
                tenant_id=tenant_id,
                url=fields.url,
                events=fields.events or DEFAULT_EVENTS,
                secrets=before.secrets if before else SigningSecrets(newest=new_secret),
                disabled=disabled,
                created_at=before.created_at if before else now,
                updated_at=now,
            )
            await self._save(connection, webhook, is_new=before is None)
        was_disabled = before.disabled if before else None
        missed_since = was_disabled.missed_since if was_disabled and not disabled else None
        return SavedWebhook(webhook=webhook, is_new=before is None, missed_since=missed_since)

    async def get_webhook(self, tenant_id: str) -> Webhook:
        """See WebhookStore."""
        async with self._database.read() as connection:
            return _found(await self._load(connection, tenant_id))

    async def rotate_webhook_secret(
        self, tenant_id: str, *, new_secret: str, overlap_seconds: int, now: datetime, keep: KeptAnswer | None = None
    ) -> Webhook:
        """See WebhookStore."""
        async with self._database.write() as connection:
            if keep:
                await keep_or_repeat(connection, self._key_ring, keep)
            before = _found(await self._locked(connection, tenant_id))
            secrets = before.secrets.changed(new_secret, overlap_seconds=overlap_seconds, now=now)
            webhook = replace(before, secrets=secrets, updated_at=now)
            await self._save(connection, webhook, is_new=False)
        return webhook

    async def delete_webhook(self, tenant_id: str) -> None:
        """See WebhookStore."""
        async with self._database.write() as connection:
            _found(await self._locked(connection, tenant_id))
            await connection.execute(delete(WEBHOOKS).where(WEBHOOKS.c.tenant_id == tenant_id))

    async def disable_webhook(self, tenant_id: str, url: str, disabled: Disabled) -> bool:
        """See WebhookStore."""
        async with self._database.write() as connection:
            before = await self._locked(connection, tenant_id)
            if before is None or before.url != url or before.disabled:
                return False
            await self._save(connection, replace(before, disabled=disabled, updated_at=disabled.at), is_new=False)
        return True

    async def count_disabled(self) -> int:
        """Count both kinds."""
        kinds = ((WEBHOOKS, WEBHOOKS.c.disabled_at_ms), (INTEGRATIONS, INTEGRATIONS.c.outbound_disabled_at_ms))
        async with self._database.read() as connection:
            counts = [
                await connection.scalar(select(func.count()).select_from(table).where(disabled_at.is_not(None)))
                for table, disabled_at in kinds
            ]
        return sum(count or 0 for count in counts)

    async def find_targets(self, tenant_id: str, integration_id: str) -> Targets:
        """See WebhookStore."""
        theirs = (INTEGRATIONS.c.tenant_id == tenant_id) & (INTEGRATIONS.c.id == integration_id)
        async with self._database.read() as connection:
            row = (await connection.execute(select(INTEGRATIONS).where(theirs))).first() if integration_id else None
            webhook = await self._load(connection, tenant_id)
        return Targets(
            integration=self._integration_target(row) if row else None, webhook=webhook.target if webhook else None
        )

    async def _locked(self, connection: Connection, tenant_id: str) -> Webhook | None:
        # The tenant's row stands for the webhook, which may not be there yet: everything that changes one begins here.
        # On SQLite, which has one writer, it is a plain read.
        await connection.execute(select(TENANTS.c.id).where(TENANTS.c.id == tenant_id).with_for_update(key_share=True))
        return await self._load(connection, tenant_id)

    async def _load(self, connection: Connection, tenant_id: str) -> Webhook | None:
        row = (await connection.execute(select(WEBHOOKS).where(WEBHOOKS.c.tenant_id == tenant_id))).first()
        return self._webhook_from(row) if row else None

    async def _save(self, connection: Connection, webhook: Webhook, *, is_new: bool) -> None:
        values = {
            "tenant_id": webhook.tenant_id,
            "url": webhook.url,
            "events": " ".join(webhook.events),
            **sealed_secrets(self._key_ring, webhook.secrets, owner=webhook.tenant_id),
            **disabled_values(webhook.disabled),
            "created_at_ms": to_milliseconds(webhook.created_at),
            "updated_at_ms": to_milliseconds(webhook.updated_at),
        }
        if is_new:
            await connection.execute(insert(WEBHOOKS).values(values))
        else:
            its = WEBHOOKS.c.tenant_id == webhook.tenant_id
            await connection.execute(update(WEBHOOKS).where(its).values(values))

    def _webhook_from(self, row: AnyRow) -> Webhook:
        return Webhook(
            tenant_id=row.tenant_id,
            url=row.url,
            events=events_from(row.events),
            secrets=opened_secrets(self._key_ring, row, owner=row.tenant_id),
            disabled=disabled_from(row.disabled_at_ms, row.disabled_reason, row.missed_since_ms),
            created_at=from_milliseconds(row.created_at_ms),
            updated_at=from_milliseconds(row.updated_at_ms),
        )

    def _integration_target(self, row: AnyRow) -> IntegrationTarget:
        outbound = Target(
            url=row.outbound_url,
            events=events_from(row.outbound_events),
            is_enabled=row.outbound_disabled_at_ms is None,
            secrets=opened_secrets(self._key_ring, row, owner=row.id),
        )
        return IntegrationTarget(
            id=row.id, name=row.name, outbound=outbound, reply_window_seconds=row.reply_window_seconds
        )


def _found(webhook: Webhook | None) -> Webhook:
    if webhook is None:
        raise NoWebhookConfigError
    return webhook
