"""From which request a message comes, and of which trace it and its webhook deliveries are a part."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for table, column in (
        ("delivery_messages", "request_id"),
        ("delivery_messages", "traceparent"),
        ("delivery_webhooks", "traceparent"),
    ):
        op.add_column(table, sa.Column(column, sa.Text(), nullable=False, server_default=""))
