"""Adds where an integration's payloads have the items of which each makes a message."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The default stays: a process of the release before may go on inserting while this step is in force.
    op.add_column("integrations_integrations", sa.Column("for_each", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("integrations_integrations", "for_each")
