"""Adds integrations' priority, policy for unknown outcomes and dedupe rule, and the answers kept for repeated calls."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The defaults stay: a process of the release before may go on inserting while this step is in force.
_COLUMNS = (
    ("priority", sa.String(), "normal"),
    ("on_unknown", sa.String(), "resend"),
    ("dedupe_key", sa.String(), ""),
    ("dedupe_window_seconds", sa.Integer(), "0"),
    ("dedupe_mode", sa.String(), ""),
)


def upgrade() -> None:
    for name, kind, default in _COLUMNS:
        op.add_column("integrations_integrations", sa.Column(name, kind, nullable=False, server_default=default))
    op.create_table(
        "integrations_kept_answers",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=False),
        sa.Column("answer_sealed", sa.String(), nullable=False),
        sa.Column("answered_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "operation", "idempotency_key", name="pk_integrations_kept_answers"),
        sa.ForeignKeyConstraint(["tenant_id"], ["integrations_tenants.id"], name="fk_integrations_kept_answers_tenant"),
    )
    op.create_index("ix_integrations_kept_answers_time", "integrations_kept_answers", ["answered_at_ms"])


def downgrade() -> None:
    op.drop_table("integrations_kept_answers")
    for name, _, _ in reversed(_COLUMNS):
        op.drop_column("integrations_integrations", name)
