"""Adds the processes that share the database, and the log by which each follows the changes of the others."""

import sqlalchemy as sa
from alembic import op

from servicekit.index_building import LaterIndex

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

later_indexes = (
    LaterIndex(name="ix_integrations_integrations_revision", table="integrations_integrations", columns=["revision"]),
)


def upgrade() -> None:
    op.create_table(
        "integrations_nodes",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("renewals", sa.BigInteger(), nullable=False),
        sa.Column("applied_revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_integrations_nodes"),
    )
    op.create_table(
        "integrations_changes",
        sa.Column("revision", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("deleted_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("revision", name="pk_integrations_changes"),
    )


def downgrade() -> None:
    op.drop_index("ix_integrations_integrations_revision", if_exists=True)
    op.drop_table("integrations_changes")
    op.drop_table("integrations_nodes")
