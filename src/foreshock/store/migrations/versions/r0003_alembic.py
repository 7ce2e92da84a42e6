"""From here on Alembic's own table says what the database holds.

A Foreshock from before that reads `schema_version`, knows 2, and is told here that this database is too new for it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(sa.text("DELETE FROM meta WHERE key = 'schema_version'"))
    op.execute(sa.text("INSERT INTO meta (key, value) VALUES ('schema_version', '3')"))
