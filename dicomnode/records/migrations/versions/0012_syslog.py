"""Remember how far each syslog receiver is; close two ways around the triggers of the audit trail."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SQLITE_TRIGGER = """
CREATE TRIGGER audit_events_no_replace BEFORE INSERT ON audit_events
WHEN EXISTS (SELECT 1 FROM audit_events WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END
"""

POSTGRESQL_TRIGGER = """
CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON audit_events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()
"""


def upgrade() -> None:
    """INSERT OR REPLACE (SQLite) and TRUNCATE (PostgreSQL) remove rows without firing a DELETE trigger."""
    op.create_table(
        "syslog_cursors",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("last_event_id", sa.Integer(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("target"),
    )
    op.execute(SQLITE_TRIGGER if op.get_bind().dialect.name == "sqlite" else POSTGRESQL_TRIGGER)


def downgrade() -> None:
    """Back again."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_events_no_replace")
    else:
        op.execute("DROP TRIGGER audit_events_no_truncate ON audit_events")
    op.drop_table("syslog_cursors")
