"""Say what was missing of a study; peers' counts are no longer kept in the database."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Studies that are closed already keep their notes with their jobs."""
    op.add_column("studies", sa.Column("missing", sa.String(), nullable=True))
    op.drop_column("studies", "expected_asked_at")


def downgrade() -> None:
    """Counts are asked again at once."""
    op.add_column("studies", sa.Column("expected_asked_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_column("studies", "missing")
