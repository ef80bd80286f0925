"""Which URL it is that only fails, so that the one which takes its place is not charged for it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("delivery_webhook_endpoints", sa.Column("failing_url_sha256", sa.LargeBinary(), nullable=True))
