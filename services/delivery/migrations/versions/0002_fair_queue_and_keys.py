"""Ranks and lanes in the due-queue, policies of messages, and keys that make repeats known."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("delivery_messages", sa.Column("priority", sa.Text(), nullable=False, server_default="normal"))
    op.add_column("delivery_messages", sa.Column("on_unknown", sa.Text(), nullable=False, server_default="resend"))
    op.add_column("delivery_due", sa.Column("lane", sa.Text(), nullable=False, server_default=""))
    op.add_column("delivery_due", sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="1"))
    # Rows of before have no rank: they wait, and become ready at their due time like any other.
    op.add_column("delivery_due", sa.Column("rank", sa.BigInteger(), nullable=True))
    op.drop_index("delivery_due_by_time", "delivery_due")
    ready, waiting = sa.text("rank IS NOT NULL"), sa.text("rank IS NULL")
    for name, columns, where in (
        ("delivery_due_ready", ["shard", "rank"], ready),
        ("delivery_due_ready_by_priority", ["shard", "priority", "rank"], ready),
        ("delivery_due_ready_by_lane", ["shard", "lane", "rank"], ready),
        ("delivery_due_waiting", ["shard", "due_at_ms"], waiting),
    ):
        op.create_index(name, "delivery_due", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "delivery_keys",
        sa.Column("shard", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("scope", sa.Text(), primary_key=True),
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("request_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("duplicate", sa.Boolean(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("delivery_keys_by_expiry", "delivery_keys", ["expires_at_ms"])
