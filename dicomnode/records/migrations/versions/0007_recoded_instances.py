"""Tell an instance in another encoding from an altered one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What is there already stays a version of its own."""
    op.add_column("instances", sa.Column("same_as", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Repetitions become versions again."""
    op.drop_column("instances", "same_as")
