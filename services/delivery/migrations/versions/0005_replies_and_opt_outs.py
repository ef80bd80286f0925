"""Replies with all that they were matched to, opt-outs, and which tenant has sent from which number."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
# What ran before expected other tables: from here on steps take nothing away in silence.
usable_from = "0005"


def upgrade() -> None:
    op.add_column(
        "delivery_messages", sa.Column("despite_opt_out", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    _keep_matches()
    _keep_opt_outs()
    _keep_senders()


def _keep_matches() -> None:
    for name in ("integration_id", "ref", "candidates", "keyword"):
        op.add_column("delivery_replies", sa.Column(name, sa.Text(), nullable=False, server_default=""))
    op.add_column("delivery_replies", sa.Column("sent_at_ms", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE delivery_replies SET"
        " integration_id = (SELECT integration_id FROM delivery_messages WHERE id = message_id),"
        " ref = (SELECT ref FROM delivery_messages WHERE id = message_id),"
        " sent_at_ms = (SELECT coalesce(sent_at_ms, updated_at_ms) FROM delivery_messages WHERE id = message_id)"
        " WHERE message_id IN (SELECT id FROM delivery_messages)"
    )
    op.execute(
        "UPDATE delivery_replies SET sent_at_ms = received_at_ms WHERE message_id IS NOT NULL AND sent_at_ms IS NULL"
    )
    op.create_index("delivery_replies_by_tenant", "delivery_replies", ["tenant_id", "received_at_ms", "id"])
    _partial_index("delivery_replies_unmatched", "delivery_replies", ["received_at_ms"], where="message_id IS NULL")


def _keep_opt_outs() -> None:
    op.create_table(
        "delivery_opt_outs",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("tenant_id", sa.Text(), nullable=True),
        sa.Column("ours", sa.Text(), nullable=False),
        sa.Column("theirs", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("word", sa.Text(), nullable=False),
        sa.Column("reply_id", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("delivery_opt_outs_once", "delivery_opt_outs", ["theirs", "ours"], unique=True)
    op.create_index("delivery_opt_outs_by_tenant", "delivery_opt_outs", ["tenant_id", "created_at_ms", "id"])
    _partial_index("delivery_opt_outs_by_reply", "delivery_opt_outs", ["reply_id"], where="reply_id <> ''")


def _keep_senders() -> None:
    op.create_table(
        "delivery_senders",
        sa.Column("sender", sa.Text(), primary_key=True),
        sa.Column("carrier", sa.Text(), primary_key=True),
        sa.Column("tenant_id", sa.Text(), primary_key=True),
    )
    op.execute(
        "INSERT INTO delivery_senders (sender, carrier, tenant_id)"
        " SELECT DISTINCT sender, carrier, tenant_id FROM delivery_messages WHERE carrier <> ''"
    )


def _partial_index(name: str, table: str, columns: list[str], *, where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
