"""Know when the association that brought the images of a study was released."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of studies that are here already it is not known; a pause decides for them."""
    op.add_column("studies", sa.Column("released_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """A pause decides again for all."""
    op.drop_column("studies", "released_at")
