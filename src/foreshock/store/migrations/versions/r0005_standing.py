"""Indexes for what stands: receivers that forget are told of it every minute."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index("incidents_status", "incidents", ["status"])
    op.create_index("outbox_settled", "outbox", ["sink", "status", "settled_s"])
