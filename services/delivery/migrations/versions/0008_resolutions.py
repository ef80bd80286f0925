"""What people decided about messages that were held, and when, for their timelines."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "delivery_resolutions",
        sa.Column("shard", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("message_id", sa.Text(), primary_key=True),
        sa.Column("resolved_at_ms", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("held_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("resolution", sa.Text(), nullable=False),
    )
