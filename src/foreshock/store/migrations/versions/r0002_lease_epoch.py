"""The newest leadership, so that writes of an older one can be refused."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "lease_epoch",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
    )
