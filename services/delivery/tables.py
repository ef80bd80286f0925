"""Delivery's rows. Times are milliseconds since 1970, UTC.

`shard` leads every primary key and stands in every query of the hot path, so that a distributed PostgreSQL can place
rows by it (docs/decisions/0006-queue-is-a-table.md). The due-queue is a table of its own, so that a claim costs the
same however many finished messages there are.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Index, LargeBinary, SmallInteger, Text, text
from sqlmodel import Field, SQLModel


def _partial_index(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class MessageRow(SQLModel, table=True):
    """One message."""

    __tablename__ = "delivery_messages"
    __table_args__ = (
        Index("delivery_messages_by_tenant", "tenant_id", "created_at_ms", "id"),
        Index("delivery_messages_by_recipient", "recipient", "created_at_ms"),
        _partial_index("delivery_messages_by_ref", "tenant_id", "ref", where="ref <> ''"),
        _partial_index("delivery_messages_awaiting_receipt", "carrier", "sent_at_ms", where="status = 'sent'"),
    )

    shard: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    id: str = Field(primary_key=True, sa_type=Text)
    tenant_id: str = Field(sa_type=Text)
    integration_id: str = Field(sa_type=Text)
    status: str = Field(sa_type=Text)
    recipient: str = Field(sa_type=Text)
    sender: str = Field(sa_type=Text)
    body: str = Field(sa_type=Text)
    ref: str = Field(sa_type=Text)
    callback: str = Field(sa_type=Text)
    carrier: str = Field(sa_type=Text)
    carrier_message_id: str = Field(sa_type=Text)
    segments: int = Field(sa_type=SmallInteger)
    encoding: str = Field(sa_type=Text)
    attempts: int = Field(sa_type=SmallInteger)
    failure_reason: str = Field(sa_type=Text)
    failure_code: str = Field(sa_type=Text)
    created_at_ms: int = Field(sa_type=BigInteger)
    updated_at_ms: int = Field(sa_type=BigInteger)
    valid_until_ms: int = Field(sa_type=BigInteger)
    priority: str = Field(sa_type=Text)
    on_unknown: str = Field(sa_type=Text)
    sent_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    delivered_at_ms: int | None = Field(default=None, sa_type=BigInteger)


class DueRow(SQLModel, table=True):
    """A message that something is still to be done for: ready, or waiting.

    A ready row has a rank, and the lowest rank goes first. A waiting row has none, and becomes ready when `due_at_ms`
    has come: its retry time, or the end of the lease of whoever claimed it. The two kinds have indexes of their own, so
    that neither a long backlog nor many retries make a claim read more rows than it takes.
    """

    __tablename__ = "delivery_due"
    __table_args__ = (
        _partial_index("delivery_due_ready", "shard", "rank", where="rank IS NOT NULL"),
        _partial_index("delivery_due_ready_by_priority", "shard", "priority", "rank", where="rank IS NOT NULL"),
        _partial_index("delivery_due_ready_by_lane", "shard", "lane", "rank", where="rank IS NOT NULL"),
        _partial_index("delivery_due_waiting", "shard", "due_at_ms", where="rank IS NULL"),
    )

    shard: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    message_id: str = Field(primary_key=True, sa_type=Text)
    due_at_ms: int = Field(sa_type=BigInteger)
    claimed: bool
    token: int = Field(sa_type=BigInteger)
    lane: str = Field(sa_type=Text)
    priority: int = Field(sa_type=SmallInteger)
    rank: int | None = Field(default=None, sa_type=BigInteger)


class KeyRow(SQLModel, table=True):
    """An idempotency or dedupe key, and the message that it stands for."""

    __tablename__ = "delivery_keys"
    __table_args__ = (Index("delivery_keys_by_expiry", "expires_at_ms"),)

    shard: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    scope: str = Field(primary_key=True, sa_type=Text)
    key: str = Field(primary_key=True, sa_type=Text)
    request_sha256: bytes = Field(sa_type=LargeBinary)
    message_id: str = Field(sa_type=Text)
    duplicate: bool
    expires_at_ms: int = Field(sa_type=BigInteger)


class AttemptRow(SQLModel, table=True):
    """One entry of the ledger."""

    __tablename__ = "delivery_attempts"

    shard: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    message_id: str = Field(primary_key=True, sa_type=Text)
    number: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    carrier: str = Field(sa_type=Text)
    outcome: str = Field(sa_type=Text)
    token: int = Field(sa_type=BigInteger)
    started_at_ms: int = Field(sa_type=BigInteger)
    finished_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    detail: str = Field(sa_type=Text)
    possible_duplicate: bool


class ReceiptRow(SQLModel, table=True):
    """A carrier's later word; the same word twice is one row."""

    __tablename__ = "delivery_receipts"

    shard: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    message_id: str = Field(primary_key=True, sa_type=Text)
    status: str = Field(primary_key=True, sa_type=Text)
    failure_reason: str = Field(sa_type=Text)
    failure_code: str = Field(sa_type=Text)
    detail: str = Field(sa_type=Text)
    received_at_ms: int = Field(sa_type=BigInteger)


class ReplyRow(SQLModel, table=True):
    """An inbound SMS, once, whatever the repeats."""

    __tablename__ = "delivery_replies"
    __table_args__ = (
        Index("delivery_replies_by_message", "message_id"),
        Index("delivery_replies_once", "carrier", "carrier_reply_id", unique=True),
    )

    id: str = Field(primary_key=True, sa_type=Text)
    tenant_id: str | None = Field(default=None, sa_type=Text)
    message_id: str | None = Field(default=None, sa_type=Text)
    carrier: str = Field(sa_type=Text)
    carrier_reply_id: str = Field(sa_type=Text)
    sender: str = Field(sa_type=Text)
    recipient: str = Field(sa_type=Text)
    body: str = Field(sa_type=Text)
    received_at_ms: int = Field(sa_type=BigInteger)


# The same tables for Core statements, which is what rows in thousands need.
MESSAGES: Final = SQLModel.metadata.tables[str(MessageRow.__tablename__)]
DUE: Final = SQLModel.metadata.tables[str(DueRow.__tablename__)]
KEYS: Final = SQLModel.metadata.tables[str(KeyRow.__tablename__)]
ATTEMPTS: Final = SQLModel.metadata.tables[str(AttemptRow.__tablename__)]
RECEIPTS: Final = SQLModel.metadata.tables[str(ReceiptRow.__tablename__)]
REPLIES: Final = SQLModel.metadata.tables[str(ReplyRow.__tablename__)]
