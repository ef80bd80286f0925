"""What the SQL stores share: rows become domain objects, and changes are counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, Table, delete, func, insert, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from servicekit.clock import from_milliseconds, to_milliseconds
from servicekit.connection import Connection
from servicekit.hot_statements import insert_for
from services.integrations.domain import ApiKey, Dedupe, IngressKey, Integration, Tenant
from services.integrations.key_ring import KeyRing
from services.integrations.signing_secrets import NO_SECRETS, OldSecret, SigningSecrets
from services.integrations.tables import CHANGES, INGRESS_KEYS, INTEGRATIONS, REVISION, TENANTS
from services.integrations.webhooks import Disabled

# Where processes that share the database tell each other that there is news.
CHANNEL: Final = "textway_integrations"
# Who is further behind begins again with everything.
KEPT_CHANGES: Final = 1_000

# A row's columns are known to SQL only, so its type says nothing of them.
AnyRow = Row[Any]


def tenant_from(row: AnyRow) -> Tenant:
    """Return the tenant of a row of TENANTS."""
    return Tenant(id=row.id, name=row.name, active=row.active, created_at=from_milliseconds(row.created_at_ms))


def api_key_from(row: AnyRow) -> ApiKey:
    """Return the key of a row of API_KEYS."""
    return ApiKey(
        id=row.id,
        tenant_id=row.tenant_id,
        name=row.name,
        hint=row.hint,
        created_at=from_milliseconds(row.created_at_ms),
        revoked_at=None if row.revoked_at_ms is None else from_milliseconds(row.revoked_at_ms),
    )


@dataclass(frozen=True, kw_only=True)
class LoadedIntegration:
    """An integration as it is stored, its secrets still sealed: opening costs more than reading does."""

    row: AnyRow
    keys: Sequence[AnyRow]

    def opened(self, key_ring: KeyRing) -> Integration:
        """Return the integration; raise UnreadableSecretError when the ring does not open its secrets."""
        row = self.row
        current = next(key for key in self.keys if key.expires_at_ms is None)
        return Integration(
            id=row.id,
            tenant_id=row.tenant_id,
            tenant_active=row.tenant_active,
            name=row.name,
            preset=row.preset,
            ingress_key=key_ring.open_sealed(current.key_sealed, owner=row.id),
            ingress_keys=tuple(_ingress_key_from(key) for key in self.keys),
            to_path=row.to_path,
            text_path=row.text_path,
            ref_path=row.ref_path,
            for_each=row.for_each,
            secrets=opened_secrets(key_ring, row, owner=row.id),
            signing_header=row.signing_header,
            outbound_url=row.outbound_url,
            default_region=row.default_region,
            priority=row.priority,
            on_unknown=row.on_unknown,
            dedupe=Dedupe(key=row.dedupe_key, window_seconds=row.dedupe_window_seconds, mode=row.dedupe_mode),
            sender=row.sender,
            tag=row.tag,
            max_segments=row.max_segments,
            on_overflow=row.on_overflow,
            outbound_events=events_from(row.outbound_events),
            outbound_disabled=disabled_from(
                row.outbound_disabled_at_ms, row.outbound_disabled_reason, row.outbound_missed_since_ms
            ),
            reply_window_seconds=row.reply_window_seconds,
            revision=row.revision,
            created_at=from_milliseconds(row.created_at_ms),
            updated_at=from_milliseconds(row.updated_at_ms),
        )


def opened_secrets(key_ring: KeyRing, row: AnyRow, *, owner: str) -> SigningSecrets:
    """Return the secrets of a row of INTEGRATIONS or WEBHOOKS; raise UnreadableSecretError."""
    if not row.signing_secret_sealed:
        return NO_SECRETS
    newest, old = key_ring.open_sealed(row.signing_secret_sealed, owner=owner), None
    if row.old_signing_secret_sealed:
        old = OldSecret(
            secret=key_ring.open_sealed(row.old_signing_secret_sealed, owner=owner),
            expires_at=from_milliseconds(row.old_signing_secret_expires_at_ms),
        )
    return SigningSecrets(newest=newest, old=old)


def sealed_secrets(key_ring: KeyRing, secrets: SigningSecrets, *, owner: str) -> dict[str, object]:
    """Return the columns that hold secrets."""
    old = secrets.old
    return {
        "signing_secret_sealed": key_ring.seal(secrets.newest, owner=owner) if secrets.newest else None,
        "old_signing_secret_sealed": key_ring.seal(old.secret, owner=owner) if old else None,
        "old_signing_secret_expires_at_ms": to_milliseconds(old.expires_at) if old else None,
    }


def disabled_from(at_ms: int | None, reason: str, missed_since_ms: int | None) -> Disabled | None:
    """Return since when and why nothing is sent to a URL; None when it is enabled."""
    if at_ms is None:
        return None
    since_ms = at_ms if missed_since_ms is None else missed_since_ms
    return Disabled(at=from_milliseconds(at_ms), reason=reason, missed_since=from_milliseconds(since_ms))


def disabled_values(disabled: Disabled | None, prefix: str = "") -> dict[str, object]:
    """Return the columns that tell since when and why nothing is sent to a URL."""
    return {
        f"{prefix}disabled_at_ms": to_milliseconds(disabled.at) if disabled else None,
        f"{prefix}disabled_reason": disabled.reason if disabled else "",
        f"{prefix}missed_since_ms": to_milliseconds(disabled.missed_since) if disabled else None,
    }


def events_from(stored: str) -> tuple[str, ...]:
    """Return events as they are stored: with spaces between them."""
    return tuple(stored.split())


def select_integrations() -> Select[Any]:
    """Return the query of every integration, with what its tenant says about it."""
    return select(INTEGRATIONS, TENANTS.c.active.label("tenant_active")).join(TENANTS)


async def load_integrations(
    connection: Connection, condition: ColumnElement[bool] | None = None
) -> Sequence[LoadedIntegration]:
    """Return the integrations that meet a condition on INTEGRATIONS, by id; all when there is none."""
    condition = true() if condition is None else condition
    rows = (await connection.execute(select_integrations().where(condition).order_by(INTEGRATIONS.c.id))).all()
    return await with_keys(connection, rows, select(INTEGRATIONS.c.id).where(condition))


async def with_keys(
    connection: Connection, rows: Sequence[AnyRow], ids: Select[Any] | Sequence[str]
) -> Sequence[LoadedIntegration]:
    """Return rows of `select_integrations`, each with its addresses; `ids` are theirs."""
    keys: defaultdict[str, list[AnyRow]] = defaultdict(list)
    query = select(INGRESS_KEYS).where(INGRESS_KEYS.c.integration_id.in_(ids))
    for key in await connection.execute(query.order_by(INGRESS_KEYS.c.sha256)):
        keys[key.integration_id].append(key)
    return [LoadedIntegration(row=row, keys=keys[row.id]) for row in rows]


def insert_where_none_is(
    connection: Connection, table: Table, row: Mapping[str, object], *, unique: Sequence[ColumnElement[Any]]
) -> postgresql.Insert | sqlite.Insert:
    """Return the insert of a row, which does nothing where one with the same unique columns is.

    Of two transactions with the same row, the second waits for the end of the first one's.
    """
    return insert_for(connection.dialect.name, table).values(row).on_conflict_do_nothing(index_elements=unique)


async def next_revision(connection: Connection, deleted_id: str | None = None) -> int:
    """Count one change. The row stays locked until the transaction ends, so that revisions are in order of commits."""
    counted = update(REVISION).where(REVISION.c.id == 1).values(value=REVISION.c.value + 1).returning(REVISION.c.value)
    revision = int((await connection.execute(counted)).scalar_one())
    if connection.dialect.name == "postgresql":
        await connection.execute(insert(CHANGES).values(revision=revision, deleted_id=deleted_id))
        await connection.execute(delete(CHANGES).where(CHANGES.c.revision <= revision - KEPT_CHANGES))
        await connection.execute(select(func.pg_notify(CHANNEL, "")))
    return revision


async def current_revision(connection: Connection) -> int:
    """Return the revision of the newest change."""
    return int((await connection.execute(select(REVISION.c.value))).scalar_one())


def _ingress_key_from(row: AnyRow) -> IngressKey:
    expires_at = None if row.expires_at_ms is None else from_milliseconds(row.expires_at_ms)
    return IngressKey(sha256=row.sha256, expires_at=expires_at)
