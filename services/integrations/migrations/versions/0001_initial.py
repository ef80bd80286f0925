"""Makes tenants, API keys, integrations, ingress keys and the counter of changes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "integrations_tenants",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_integrations_tenants"),
        sa.UniqueConstraint("name", name="uq_integrations_tenants_name"),
    )
    op.create_table(
        "integrations_api_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_integrations_api_keys"),
        sa.UniqueConstraint("sha256", name="uq_integrations_api_keys_sha256"),
        sa.ForeignKeyConstraint(["tenant_id"], ["integrations_tenants.id"], name="fk_integrations_api_keys_tenant"),
    )
    op.create_index("ix_integrations_api_keys_tenant", "integrations_api_keys", ["tenant_id", "created_at_ms", "id"])
    op.create_table(
        "integrations_integrations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("preset", sa.String(), nullable=False),
        sa.Column("to_path", sa.String(), nullable=False),
        sa.Column("text_path", sa.String(), nullable=False),
        sa.Column("ref_path", sa.String(), nullable=False),
        sa.Column("signing_secret_sealed", sa.String(), nullable=True),
        sa.Column("signing_header", sa.String(), nullable=False),
        sa.Column("outbound_url", sa.String(), nullable=False),
        sa.Column("default_region", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_integrations_integrations"),
        sa.ForeignKeyConstraint(["tenant_id"], ["integrations_tenants.id"], name="fk_integrations_integrations_tenant"),
    )
    op.create_index(
        "ix_integrations_integrations_tenant", "integrations_integrations", ["tenant_id", "created_at_ms", "id"]
    )
    op.create_table(
        "integrations_ingress_keys",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("integration_id", sa.String(), nullable=False),
        sa.Column("key_sealed", sa.String(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name="pk_integrations_ingress_keys"),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integrations_integrations.id"], name="fk_integrations_ingress_keys_integration"
        ),
    )
    op.create_index("ix_integrations_ingress_keys_integration", "integrations_ingress_keys", ["integration_id"])
    op.create_index(
        "ux_integrations_ingress_keys_current",
        "integrations_ingress_keys",
        ["integration_id"],
        unique=True,
        sqlite_where=sa.text("expires_at_ms IS NULL"),
        postgresql_where=sa.text("expires_at_ms IS NULL"),
    )
    counter = op.create_table(
        "integrations_revision",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_integrations_revision"),
    )
    # It begins at 1, because a watcher's 0 means that it has applied nothing yet.
    op.bulk_insert(counter, [{"id": 1, "value": 1}])


def downgrade() -> None:
    for name in ("revision", "ingress_keys", "integrations", "api_keys", "tenants"):
        op.drop_table(f"integrations_{name}")
