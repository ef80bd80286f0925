"""The tables of Integrations. Times are milliseconds since 1970; what ends in `_sealed` only the key ring opens."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Index, LargeBinary, Table, text
from sqlmodel import Field, SQLModel


class TenantRow(SQLModel, table=True):
    """One tenant."""

    __tablename__ = "integrations_tenants"

    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    active: bool
    created_at_ms: int = Field(sa_type=BigInteger)


class ApiKeyRow(SQLModel, table=True):
    """One API key, by its hash."""

    __tablename__ = "integrations_api_keys"
    __table_args__ = (Index("ix_integrations_api_keys_tenant", "tenant_id", "created_at_ms", "id"),)

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="integrations_tenants.id")
    name: str
    hint: str
    sha256: bytes = Field(sa_type=LargeBinary, unique=True)
    created_at_ms: int = Field(sa_type=BigInteger)
    revoked_at_ms: int | None = Field(sa_type=BigInteger)


class IntegrationRow(SQLModel, table=True):
    """One connected system."""

    __tablename__ = "integrations_integrations"
    __table_args__ = (
        Index("ix_integrations_integrations_tenant", "tenant_id", "created_at_ms", "id"),
        Index("ix_integrations_integrations_revision", "revision"),
    )

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="integrations_tenants.id")
    name: str
    preset: str
    to_path: str
    text_path: str
    ref_path: str
    signing_secret_sealed: str | None
    signing_header: str
    outbound_url: str
    default_region: str
    # With defaults in the database, so that a release that does not know these columns can go on inserting.
    priority: str = Field(sa_column_kwargs={"server_default": "normal"})
    on_unknown: str = Field(sa_column_kwargs={"server_default": "resend"})
    dedupe_key: str = Field(sa_column_kwargs={"server_default": ""})
    dedupe_window_seconds: int = Field(sa_column_kwargs={"server_default": "0"})
    dedupe_mode: str = Field(sa_column_kwargs={"server_default": ""})
    sender: str = Field(sa_column_kwargs={"server_default": ""})
    tag: str = Field(sa_column_kwargs={"server_default": ""})
    max_segments: int = Field(sa_column_kwargs={"server_default": "0"})
    on_overflow: str = Field(sa_column_kwargs={"server_default": "reject"})
    old_signing_secret_sealed: str | None
    old_signing_secret_expires_at_ms: int | None = Field(sa_type=BigInteger)
    outbound_events: str = Field(sa_column_kwargs={"server_default": "message.received"})  # with spaces between them
    outbound_disabled_at_ms: int | None = Field(sa_type=BigInteger)
    outbound_disabled_reason: str = Field(sa_column_kwargs={"server_default": ""})
    outbound_missed_since_ms: int | None = Field(sa_type=BigInteger)
    reply_window_seconds: int = Field(sa_column_kwargs={"server_default": "0"})
    for_each: str = Field(sa_column_kwargs={"server_default": ""})
    revision: int = Field(sa_type=BigInteger)
    created_at_ms: int = Field(sa_type=BigInteger)
    updated_at_ms: int = Field(sa_type=BigInteger)


class IngressKeyRow(SQLModel, table=True):
    """One address. The current one of an integration never expires, and is kept sealed too, so that it can be shown."""

    __tablename__ = "integrations_ingress_keys"
    __table_args__ = (
        Index("ix_integrations_ingress_keys_integration", "integration_id"),
        Index(
            "ux_integrations_ingress_keys_current",
            "integration_id",
            unique=True,
            sqlite_where=text("expires_at_ms IS NULL"),
            postgresql_where=text("expires_at_ms IS NULL"),
        ),
    )

    sha256: bytes = Field(sa_type=LargeBinary, primary_key=True)
    integration_id: str = Field(foreign_key="integrations_integrations.id")
    key_sealed: str | None
    expires_at_ms: int | None = Field(sa_type=BigInteger)


class WebhookRow(SQLModel, table=True):
    """A tenant's forward-all webhook."""

    __tablename__ = "integrations_webhooks"

    tenant_id: str = Field(primary_key=True, foreign_key="integrations_tenants.id")
    url: str
    events: str  # with spaces between them
    signing_secret_sealed: str
    old_signing_secret_sealed: str | None
    old_signing_secret_expires_at_ms: int | None = Field(sa_type=BigInteger)
    disabled_at_ms: int | None = Field(sa_type=BigInteger)
    disabled_reason: str
    missed_since_ms: int | None = Field(sa_type=BigInteger)
    created_at_ms: int = Field(sa_type=BigInteger)
    updated_at_ms: int = Field(sa_type=BigInteger)


class RevisionRow(SQLModel, table=True):
    """The one row that counts changes, so that the count grows across restarts and across deletions."""

    __tablename__ = "integrations_revision"

    id: int = Field(primary_key=True)
    value: int = Field(sa_type=BigInteger)


class ChangeRow(SQLModel, table=True):
    """That a revision was counted, and the integration that it deleted, if it did; only where processes share it."""

    __tablename__ = "integrations_changes"

    revision: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    deleted_id: str | None


class NodeRow(SQLModel, table=True):
    """One of the processes that share the database, and what all its watchers have applied."""

    __tablename__ = "integrations_nodes"

    id: str = Field(primary_key=True)
    renewals: int = Field(sa_type=BigInteger)
    applied_revision: int = Field(sa_type=BigInteger)


class KeptAnswerRow(SQLModel, table=True):
    """The first answer to a repeatable call. It shows an address, and the hash tells of a secret: both are sealed."""

    __tablename__ = "integrations_kept_answers"
    __table_args__ = (Index("ix_integrations_kept_answers_time", "answered_at_ms"),)

    tenant_id: str = Field(primary_key=True, foreign_key="integrations_tenants.id")
    operation: str = Field(primary_key=True)
    idempotency_key: str = Field(primary_key=True)
    answer_sealed: str
    answered_at_ms: int = Field(sa_type=BigInteger)


def _table(name: str) -> Table:
    return SQLModel.metadata.tables[name]


TENANTS: Final = _table("integrations_tenants")
API_KEYS: Final = _table("integrations_api_keys")
INTEGRATIONS: Final = _table("integrations_integrations")
INGRESS_KEYS: Final = _table("integrations_ingress_keys")
WEBHOOKS: Final = _table("integrations_webhooks")
REVISION: Final = _table("integrations_revision")
CHANGES: Final = _table("integrations_changes")
NODES: Final = _table("integrations_nodes")
KEPT_ANSWERS: Final = _table("integrations_kept_answers")
