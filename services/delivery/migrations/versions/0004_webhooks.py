"""Webhook deliveries, the log of their attempts, and their own due-queue with a line for each endpoint."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _keep_deliveries()
    _keep_attempts()
    _keep_a_queue()


def _keep_deliveries() -> None:
    op.create_table(
        "delivery_webhooks",
        sa.Column("id", sa.Text(), primary_key=True),
        *_texts("tenant_id", "destination_kind", "destination_id", "url", "endpoint"),
        *_texts("event", "event_id", "message_id", "reply_id"),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        *_texts("status"),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("attempts_before", sa.SmallInteger(), nullable=False),
        *_texts("problem"),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        *_times("next_at_ms", "finished_at_ms", "given_up_at_ms"),
    )
    op.create_index("delivery_webhooks_by_tenant", "delivery_webhooks", ["tenant_id", "created_at_ms", "id"])
    op.create_index("delivery_webhooks_by_status", "delivery_webhooks", ["tenant_id", "status", "created_at_ms", "id"])
    _partial_index(
        "delivery_webhooks_given_up",
        "delivery_webhooks",
        ["tenant_id", "given_up_at_ms", "id"],
        where="given_up_at_ms IS NOT NULL",
    )
    _partial_index("delivery_webhooks_by_message", "delivery_webhooks", ["message_id"], where="message_id <> ''")
    _partial_index(
        "delivery_webhooks_finished", "delivery_webhooks", ["finished_at_ms"], where="finished_at_ms IS NOT NULL"
    )


def _keep_attempts() -> None:
    op.create_table(
        "delivery_webhook_attempts",
        sa.Column("delivery_id", sa.Text(), primary_key=True),
        sa.Column("number", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=False),
        *_times("finished_at_ms"),
        *_texts("url"),
        sa.Column("status_code", sa.SmallInteger(), nullable=True),
        sa.Column("milliseconds", sa.BigInteger(), nullable=True),
        *_texts("problem", "excerpt"),
    )


def _keep_a_queue() -> None:
    op.create_table(
        "delivery_webhook_due",
        sa.Column("delivery_id", sa.Text(), primary_key=True),
        *_texts("endpoint", "tenant_id"),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("tried", sa.Boolean(), nullable=False),
        *_times("ready_at_ms", "leased_at_ms"),
        sa.Column("token", sa.BigInteger(), nullable=False),
    )
    for name, columns, where in (
        ("delivery_webhook_due_ready", ["endpoint", "delivery_id"], "ready_at_ms IS NOT NULL"),
        ("delivery_webhook_due_waiting", ["tried", "due_at_ms"], "ready_at_ms IS NULL"),
        ("delivery_webhook_due_waiting_by_endpoint", ["endpoint"], "ready_at_ms IS NULL"),
        ("delivery_webhook_due_leased", ["tenant_id", "endpoint"], "leased_at_ms IS NOT NULL"),
    ):
        _partial_index(name, "delivery_webhook_due", columns, where=where)
    op.create_table(
        "delivery_webhook_endpoints",
        sa.Column("endpoint", sa.Text(), primary_key=True),
        *_texts("tenant_id"),
        *_times("turn_at_ms", "failing_since_ms", "failed_at_ms"),
    )
    _partial_index(
        "delivery_webhook_endpoints_in_turn",
        "delivery_webhook_endpoints",
        ["turn_at_ms", "endpoint"],
        where="turn_at_ms IS NOT NULL",
    )


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _times(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger(), nullable=True) for name in names]


def _partial_index(name: str, table: str, columns: list[str], *, where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
