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
    wanted_sender: str = Field(sa_type=Text)
    tag: str = Field(sa_type=Text)
    despite_opt_out: bool
    request_id: str = Field(sa_type=Text)  # of the sender's request, for the logs; empty for none
    traceparent: str = Field(sa_type=Text)  # of the sender's request; empty when nobody traces


class DueRow(SQLModel, table=True):
    """A message that something is still to be done for: ready, or waiting.

    A ready row has a rank, and the lowest rank of a route goes first. A waiting row has none, and becomes ready when
    `due_at_ms` has come: its retry time, or the end of the lease of whoever claimed it. The two kinds have indexes of
    their own, so that neither a long backlog nor many retries make a claim read more rows than it takes. Each route has
    a queue of its own, so that one whose carriers are down costs nothing while it waits.
    """

    __tablename__ = "delivery_due"
    __table_args__ = (
        _partial_index("delivery_due_ready", "shard", "route", "rank", where="rank IS NOT NULL"),
        _partial_index(
            "delivery_due_ready_by_priority", "shard", "route", "priority", "rank", where="rank IS NOT NULL"
        ),
        _partial_index("delivery_due_ready_by_lane", "shard", "route", "lane", "rank", where="rank IS NOT NULL"),
        _partial_index("delivery_due_waiting", "shard", "due_at_ms", where="rank IS NULL"),
    )

    shard: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    message_id: str = Field(primary_key=True, sa_type=Text)
    due_at_ms: int = Field(sa_type=BigInteger)
    claimed: bool
    token: int = Field(sa_type=BigInteger)
    route: str = Field(sa_type=Text)
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
    __table_args__ = (
        _partial_index(
            "delivery_attempts_by_carrier_id", "carrier", "carrier_message_id", where="carrier_message_id <> ''"
        ),
    )

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
    sender: str = Field(sa_type=Text)
    why: str = Field(sa_type=Text)
    failure_reason: str = Field(sa_type=Text)
    failure_code: str = Field(sa_type=Text)
    carrier_message_id: str = Field(sa_type=Text)


class PartRow(SQLModel, table=True):
    """One part of a message that a carrier took as several, each with an id and receipts of its own."""

    __tablename__ = "delivery_parts"
    __table_args__ = (Index("delivery_parts_by_carrier_id", "carrier", "carrier_message_id"),)

    shard: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    message_id: str = Field(primary_key=True, sa_type=Text)
    attempt: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    part: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    carrier: str = Field(sa_type=Text)
    carrier_message_id: str = Field(sa_type=Text)
    status: str = Field(sa_type=Text)


class ReceiptRow(SQLModel, table=True):
    """A carrier's later word; the same word twice is one row.

    `attempt` is the carrier's first when it gave only our id back (0 in rows of before that was kept), and `part` is 0
    for a message as a whole.
    """

    __tablename__ = "delivery_receipts"

    shard: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    message_id: str = Field(primary_key=True, sa_type=Text)
    attempt: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    part: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    status: str = Field(primary_key=True, sa_type=Text)
    failure_reason: str = Field(sa_type=Text)
    failure_code: str = Field(sa_type=Text)
    detail: str = Field(sa_type=Text)
    received_at_ms: int = Field(sa_type=BigInteger)


class ParkedReceiptRow(SQLModel, table=True):
    """A receipt whose message or part is not known, or not yet: the carrier was faster than our own commit.

    `message_id` is empty when the carrier gave only its own id.
    """

    __tablename__ = "delivery_parked_receipts"
    __table_args__ = (Index("delivery_parked_receipts_by_time", "received_at_ms"),)

    carrier: str = Field(primary_key=True, sa_type=Text)
    carrier_message_id: str = Field(primary_key=True, sa_type=Text)
    message_id: str = Field(primary_key=True, sa_type=Text)
    status: str = Field(primary_key=True, sa_type=Text)
    failure_reason: str = Field(sa_type=Text)
    failure_code: str = Field(sa_type=Text)
    detail: str = Field(sa_type=Text)
    received_at_ms: int = Field(sa_type=BigInteger)


class CarrierRow(SQLModel, table=True):
    """How a carrier is, for every process that sends: a row appears when something has gone wrong with it."""

    __tablename__ = "delivery_carriers"

    name: str = Field(primary_key=True, sa_type=Text)
    breaker: str = Field(sa_type=Text)
    open_until_ms: int = Field(sa_type=BigInteger)
    times_opened: int = Field(sa_type=SmallInteger)  # in a row; 0 when it is closed
    paused_until_ms: int = Field(sa_type=BigInteger)
    slowed_at_ms: int = Field(sa_type=BigInteger)  # when the factor was set
    rate_factor: float  # of the configured limit, at `slowed_at_ms`; 1 when it never throttled
    error_reason: str = Field(sa_type=Text)
    error_detail: str = Field(sa_type=Text)
    error_at_ms: int = Field(sa_type=BigInteger)


class PaceRow(SQLModel, table=True):
    """How far a limit is used up: of a carrier, or of one sender at a carrier."""

    __tablename__ = "delivery_paces"

    carrier: str = Field(primary_key=True, sa_type=Text)
    sender: str = Field(primary_key=True, sa_type=Text)  # empty for the carrier as a whole
    next_us: int = Field(sa_type=BigInteger)  # when the next segment may go, in microseconds since 1970
    planned_us: int = Field(sa_type=BigInteger)  # until when messages are put off, one behind the other


class ReplyRow(SQLModel, table=True):
    """An inbound SMS, once, whatever the repeats."""

    __tablename__ = "delivery_replies"
    __table_args__ = (
        Index("delivery_replies_by_message", "message_id"),
        Index("delivery_replies_once", "carrier", "carrier_reply_id", unique=True),
        Index("delivery_replies_by_tenant", "tenant_id", "received_at_ms", "id"),
        _partial_index("delivery_replies_unmatched", "received_at_ms", where="message_id IS NULL"),
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
    # Of the message that it answers, as it was then, so that a list reads one table.
    integration_id: str = Field(sa_type=Text)
    ref: str = Field(sa_type=Text)
    sent_at_ms: int | None = Field(default=None, sa_type=BigInteger)
    candidates: str = Field(sa_type=Text)  # ids, with spaces between them
    keyword: str = Field(sa_type=Text)


class OptOutRow(SQLModel, table=True):
    """A person who wants no more messages from one of our numbers."""

    __tablename__ = "delivery_opt_outs"
    __table_args__ = (
        Index("delivery_opt_outs_once", "theirs", "ours", unique=True),
        Index("delivery_opt_outs_by_tenant", "tenant_id", "created_at_ms", "id"),
        _partial_index("delivery_opt_outs_by_reply", "reply_id", where="reply_id <> ''"),
    )

    id: str = Field(primary_key=True, sa_type=Text)
    tenant_id: str | None = Field(default=None, sa_type=Text)
    ours: str = Field(sa_type=Text)  # empty for whatever number a carrier chooses
    theirs: str = Field(sa_type=Text)
    source: str = Field(sa_type=Text)
    word: str = Field(sa_type=Text)
    reply_id: str = Field(sa_type=Text)
    created_at_ms: int = Field(sa_type=BigInteger)


class SenderRow(SQLModel, table=True):
    """A tenant that has sent from this number or name by this carrier: a few rows, which outlive the messages."""

    __tablename__ = "delivery_senders"

    sender: str = Field(primary_key=True, sa_type=Text)  # empty where the carrier chooses
    carrier: str = Field(primary_key=True, sa_type=Text)
    tenant_id: str = Field(primary_key=True, sa_type=Text)


class ResolutionRow(SQLModel, table=True):
    """How a message that was held was settled."""

    __tablename__ = "delivery_resolutions"

    shard: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    message_id: str = Field(primary_key=True, sa_type=Text)
    resolved_at_ms: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    held_at_ms: int = Field(sa_type=BigInteger)
    resolution: str = Field(sa_type=Text)  # what a person decided; empty when a receipt came


# The same tables for Core statements, which is what rows in thousands need.
MESSAGES: Final = SQLModel.metadata.tables[str(MessageRow.__tablename__)]
DUE: Final = SQLModel.metadata.tables[str(DueRow.__tablename__)]
KEYS: Final = SQLModel.metadata.tables[str(KeyRow.__tablename__)]
ATTEMPTS: Final = SQLModel.metadata.tables[str(AttemptRow.__tablename__)]
RECEIPTS: Final = SQLModel.metadata.tables[str(ReceiptRow.__tablename__)]
PARTS: Final = SQLModel.metadata.tables[str(PartRow.__tablename__)]
PARKED_RECEIPTS: Final = SQLModel.metadata.tables[str(ParkedReceiptRow.__tablename__)]
CARRIERS: Final = SQLModel.metadata.tables[str(CarrierRow.__tablename__)]
PACES: Final = SQLModel.metadata.tables[str(PaceRow.__tablename__)]
REPLIES: Final = SQLModel.metadata.tables[str(ReplyRow.__tablename__)]
OPT_OUTS: Final = SQLModel.metadata.tables[str(OptOutRow.__tablename__)]
SENDERS: Final = SQLModel.metadata.tables[str(SenderRow.__tablename__)]
RESOLUTIONS: Final = SQLModel.metadata.tables[str(ResolutionRow.__tablename__)]
