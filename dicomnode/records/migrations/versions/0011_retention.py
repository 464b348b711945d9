"""Say which files are gone by retention."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """All files are here."""
    for table in ("instances", "results"):
        op.add_column(table, sa.Column("purged_at", TIME, nullable=True))


def downgrade() -> None:
    """What is gone looks lost."""
    for table in ("instances", "results"):
        op.drop_column(table, "purged_at")
