"""Adds tenants' webhooks, integrations' old signing secrets, and what their outbound URLs get or why nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
# What ran before expected other tables: from here on steps take nothing away in silence.
usable_from = "0004"
branch_labels = None
depends_on = None

# What is not nullable has a default that stays: a process of the release before may go on inserting.
_COLUMNS = (
    ("old_signing_secret_sealed", sa.String(), None),
    ("old_signing_secret_expires_at_ms", sa.BigInteger(), None),
    ("outbound_events", sa.String(), "message.received"),
    ("outbound_disabled_at_ms", sa.BigInteger(), None),
    ("outbound_disabled_reason", sa.String(), ""),
    ("outbound_missed_since_ms", sa.BigInteger(), None),
    ("reply_window_seconds", sa.Integer(), "0"),
)


def upgrade() -> None:
    for name, kind, default in _COLUMNS:
        column = sa.Column(name, kind, nullable=default is None, server_default=default)
        op.add_column("integrations_integrations", column)
    op.create_table(
        "integrations_webhooks",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("events", sa.String(), nullable=False),
        sa.Column("signing_secret_sealed", sa.String(), nullable=False),
        sa.Column("old_signing_secret_sealed", sa.String(), nullable=True),
        sa.Column("old_signing_secret_expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("disabled_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("disabled_reason", sa.String(), nullable=False),
        sa.Column("missed_since_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_integrations_webhooks"),
        sa.ForeignKeyConstraint(["tenant_id"], ["integrations_tenants.id"], name="fk_integrations_webhooks_tenant"),
    )


def downgrade() -> None:
    op.drop_table("integrations_webhooks")
    for name, _, _ in reversed(_COLUMNS):
        op.drop_column("integrations_integrations", name)
