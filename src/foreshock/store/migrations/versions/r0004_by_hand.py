"""What people say of incidents, and the notices that tell the engine of what was changed by hand."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("incidents", sa.Column("feedback", sa.JSON))
    op.create_table(
        "notices",
        sa.Column("namespace", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(253), primary_key=True),
        sa.Column("what", sa.String(16), primary_key=True),
        sa.Column("at_s", sa.Double, nullable=False),
    )
