"""Routes with a queue each, carriers' ids and parts, receipts by part, parked receipts, and how the carriers are."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _add_text_columns("delivery_messages", "wanted_sender", "tag")
    _add_text_columns("delivery_attempts", "sender", "why", "failure_reason", "failure_code", "carrier_message_id")
    _partial_index(
        "delivery_attempts_by_carrier_id",
        "delivery_attempts",
        ["carrier", "carrier_message_id"],
        where="carrier_message_id <> ''",
    )
    _give_each_route_a_queue()
    _keep_receipts_by_part()
    op.create_table(
        "delivery_parts",
        sa.Column("shard", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("message_id", sa.Text(), primary_key=True),
        sa.Column("attempt", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("part", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("carrier", sa.Text(), nullable=False),
        sa.Column("carrier_message_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
    )
    op.create_index("delivery_parts_by_carrier_id", "delivery_parts", ["carrier", "carrier_message_id"])
    op.create_table(
        "delivery_parked_receipts",
        sa.Column("carrier", sa.Text(), primary_key=True),
        sa.Column("carrier_message_id", sa.Text(), primary_key=True),
        sa.Column("message_id", sa.Text(), primary_key=True),
        sa.Column("status", sa.Text(), primary_key=True),
        sa.Column("failure_reason", sa.Text(), nullable=False),
        sa.Column("failure_code", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("delivery_parked_receipts_by_time", "delivery_parked_receipts", ["received_at_ms"])
    op.create_table(
        "delivery_carriers",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("breaker", sa.Text(), nullable=False),
        sa.Column("open_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("times_opened", sa.SmallInteger(), nullable=False),
        sa.Column("paused_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("slowed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("rate_factor", sa.Float(), nullable=False),
        sa.Column("error_reason", sa.Text(), nullable=False),
        sa.Column("error_detail", sa.Text(), nullable=False),
        sa.Column("error_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "delivery_paces",
        sa.Column("carrier", sa.Text(), primary_key=True),
        sa.Column("sender", sa.Text(), primary_key=True),
        sa.Column("next_us", sa.BigInteger(), nullable=False),
        sa.Column("planned_us", sa.BigInteger(), nullable=False),
    )


def _give_each_route_a_queue() -> None:
    # Rows of before have no route: whoever starts next puts them into one that it knows.
    _add_text_columns("delivery_due", "route")
    for name, columns in (
        ("delivery_due_ready", ["shard", "route", "rank"]),
        ("delivery_due_ready_by_priority", ["shard", "route", "priority", "rank"]),
        ("delivery_due_ready_by_lane", ["shard", "route", "lane", "rank"]),
    ):
        op.drop_index(name, "delivery_due")
        _partial_index(name, "delivery_due", columns, where="rank IS NOT NULL")


def _keep_receipts_by_part() -> None:
    op.rename_table("delivery_receipts", "delivery_receipts_before")
    op.create_table(
        "delivery_receipts",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("part", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=False),
        sa.Column("failure_code", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        # Named, because PostgreSQL keeps the old table's name of it taken.
        sa.PrimaryKeyConstraint("shard", "message_id", "attempt", "part", "status", name="delivery_receipts_by_part"),
    )
    op.execute(
        "INSERT INTO delivery_receipts"
        " SELECT shard, message_id, 0, 0, status, failure_reason, failure_code, detail, received_at_ms"
        " FROM delivery_receipts_before"
    )
    op.drop_table("delivery_receipts_before")


def _add_text_columns(table: str, *names: str) -> None:
    for name in names:
        op.add_column(table, sa.Column(name, sa.Text(), nullable=False, server_default=""))


def _partial_index(name: str, table: str, columns: list[str], *, where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
