"""Find what one person did: an index of the events of actors that do little."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

SELDOM = "actor NOT IN ('receiver', 'assembly', 'routing', 'delivery') AND substr(actor, 1, 7) <> 'worker '"


def upgrade() -> None:
    """Index them; events of receiving, working and delivering cost nothing more."""
    op.create_index(
        "audit_events_of_few",
        "audit_events",
        ["actor", "at", "id"],
        sqlite_where=sa.text(SELDOM),
        postgresql_where=sa.text(SELDOM),
    )


def downgrade() -> None:
    """Searching for a person reads the whole trail again."""
    op.drop_index("audit_events_of_few", "audit_events")
