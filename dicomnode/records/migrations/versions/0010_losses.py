"""Count on each job the workers that were lost while they had it."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing was counted before. A plain ALTER: other tables refer to this one."""
    op.add_column("jobs", sa.Column("losses", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Forget the counts."""
    op.drop_column("jobs", "losses")
