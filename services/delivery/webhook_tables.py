"""The rows of webhook deliveries. Times are milliseconds since 1970, UTC."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Index, LargeBinary, SmallInteger, Text, text
from sqlmodel import Field, SQLModel


def _partial_index(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class WebhookRow(SQLModel, table=True):
    """One delivery."""

    __tablename__ = "delivery_webhooks"
    __table_args__ = (
        Index("delivery_webhooks_by_tenant", "tenant_id", "created_at_ms", "id"),
        Index("delivery_webhooks_by_status", "tenant_id", "status", "created_at_ms", "id"),
        _partial_index("delivery_webhooks_by_message", "message_id", where="message_id <> ''"),
        _partial_index(
            "delivery_webhooks_given_up", "tenant_id", "given_up_at_ms", "id", where="given_up_at_ms IS NOT NULL"
        ),
        _partial_index("delivery_webhooks_finished", "finished_at_ms", where="finished_at_ms IS NOT NULL"),
    )

    id: str = Field(primary_key=True, sa_type=Text)
    tenant_id: str = Field(sa_type=Text)
    destination_kind: str = Field(sa_type=Text)
    destination_id: str = Field(sa_type=Text)
    url: str = Field(sa_type=Text)
    endpoint: str = Field(sa_type=Text)
    event: str = Field(sa_type=Text)
    event_id: str = Field(sa_type=Text)
    message_id: str = Field(sa_type=Text)
    reply_id: str = Field(sa_type=Text)
    body: bytes = Field(sa_type=LargeBinary)
    status: str = Field(sa_type=Text)
    attempts: int = Field(sa_type=SmallInteger)
    attempts_before: int = Field(sa_type=SmallInteger)
    problem: str = Field(sa_type=Text)
    created_at_ms: int = Field(sa_type=BigInteger)
    next_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    finished_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    given_up_at_ms: int | None = Field(default=None, sa_type=BigInteger)  # when it failed or was missed
    traceparent: str = Field(sa_type=Text)  # of the request that its message came by; empty when nobody traces


class WebhookAttemptRow(SQLModel, table=True):
    """One entry of the log."""

    __tablename__ = "delivery_webhook_attempts"

    delivery_id: str = Field(primary_key=True, sa_type=Text)
    number: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    started_at_ms: int = Field(sa_type=BigInteger)
    finished_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    url: str = Field(sa_type=Text)
    status_code: int | None = Field(default=None, sa_type=SmallInteger)
    milliseconds: int | None = Field(default=None, sa_type=BigInteger)
    problem: str = Field(sa_type=Text)
    excerpt: str = Field(sa_type=Text)


class WebhookDueRow(SQLModel, table=True):
    """A delivery that something is still to be done for: ready, or waiting.

    A ready row stands in the line of its endpoint. A waiting one becomes ready when `due_at_ms` has come: the time of
    its attempt, or the end of the lease of whoever claimed it; those that were never tried go first. The two kinds have
    indexes of their own, so that neither a long line nor many retries make a claim read more rows than it takes.
    """

    __tablename__ = "delivery_webhook_due"
    __table_args__ = (
        _partial_index("delivery_webhook_due_ready", "endpoint", "delivery_id", where="ready_at_ms IS NOT NULL"),
        _partial_index("delivery_webhook_due_waiting", "tried", "due_at_ms", where="ready_at_ms IS NULL"),
        _partial_index("delivery_webhook_due_leased", "tenant_id", "endpoint", where="leased_at_ms IS NOT NULL"),
        _partial_index("delivery_webhook_due_waiting_by_endpoint", "endpoint", where="ready_at_ms IS NULL"),
    )

    delivery_id: str = Field(primary_key=True, sa_type=Text)
    endpoint: str = Field(sa_type=Text)
    tenant_id: str = Field(sa_type=Text)
    due_at_ms: int = Field(sa_type=BigInteger)
    tried: bool
    ready_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    leased_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    token: int = Field(sa_type=BigInteger)


class WebhookEndpointRow(SQLModel, table=True):
    """An endpoint that something waits for, or that fails: its turn, and since when it only fails.

    It has a turn while there is a delivery in its line and room to send one; the lowest `turn_at_ms` goes first.
    """

    __tablename__ = "delivery_webhook_endpoints"
    __table_args__ = (
        _partial_index("delivery_webhook_endpoints_in_turn", "turn_at_ms", "endpoint", where="turn_at_ms IS NOT NULL"),
    )

    endpoint: str = Field(primary_key=True, sa_type=Text)
    tenant_id: str = Field(sa_type=Text)
    turn_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    failing_since_ms: int | None = Field(default=None, sa_type=BigInteger)
    failed_at_ms: int | None = Field(default=None, sa_type=BigInteger)  # the last time
    failing_url_sha256: bytes | None = Field(default=None, sa_type=LargeBinary)  # that it had then


# The same tables for Core statements, which is what rows in thousands need.
WEBHOOKS: Final = SQLModel.metadata.tables[str(WebhookRow.__tablename__)]
WEBHOOK_ATTEMPTS: Final = SQLModel.metadata.tables[str(WebhookAttemptRow.__tablename__)]
WEBHOOK_DUE: Final = SQLModel.metadata.tables[str(WebhookDueRow.__tablename__)]
WEBHOOK_ENDPOINTS: Final = SQLModel.metadata.tables[str(WebhookEndpointRow.__tablename__)]
