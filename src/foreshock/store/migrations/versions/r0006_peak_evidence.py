"""The evidence of an incident's worst window, beside that of the window on which it fired."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("incidents", sa.Column("peak_evidence", sa.JSON))
