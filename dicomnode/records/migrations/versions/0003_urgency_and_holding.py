"""Rank jobs by urgency and age; say why a complete study is held."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Jobs that wait keep their order of creation.

    Plain ALTER statements: other tables refer to these, so SQLite must not make them anew.
    """
    op.add_column("studies", sa.Column("urgency", sa.String(), nullable=True))
    op.add_column("studies", sa.Column("held_reason", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("ranked_at", TIME, nullable=False, server_default="1970-01-01 00:00:00"))
    op.execute("UPDATE jobs SET ranked_at = created_at")
    op.create_index("jobs_by_rank", "jobs", ["state", "ranked_at"])


def downgrade() -> None:
    """Forget both."""
    op.drop_index("jobs_by_rank", "jobs")
    op.drop_column("jobs", "ranked_at")
    op.drop_column("studies", "held_reason")
    op.drop_column("studies", "urgency")
