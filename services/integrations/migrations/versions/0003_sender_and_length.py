"""Adds integrations' sender, tag for routing rules, and limit of SMS parts with what becomes of a longer text."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# The defaults stay: a process of the release before may go on inserting while this step is in force.
_COLUMNS = (
    ("sender", sa.String(), ""),
    ("tag", sa.String(), ""),
    ("max_segments", sa.Integer(), "0"),
    ("on_overflow", sa.String(), "reject"),
)


def upgrade() -> None:
    for name, kind, default in _COLUMNS:
        op.add_column("integrations_integrations", sa.Column(name, kind, nullable=False, server_default=default))


def downgrade() -> None:
    for name, _, _ in reversed(_COLUMNS):
        op.drop_column("integrations_integrations", name)
