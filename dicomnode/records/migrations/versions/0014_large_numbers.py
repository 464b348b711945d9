"""Count events, instances and bytes in 64 bits on PostgreSQL, as SQLite does anyway."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

COLUMNS = (
    ("audit_events", "id"),
    ("instances", "id"),
    ("instances", "same_as"),
    ("instances", "size_bytes"),
    ("syslog_cursors", "last_event_id"),
)
SEQUENCES = ("audit_events_id_seq", "instances_id_seq")


def upgrade() -> None:
    """Widen the columns, and the sequences of their numbers."""
    _become("bigint")


def downgrade() -> None:
    """Narrow them again; refused by the database when a number does not fit."""
    _become("integer")


def _become(kind: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, column in COLUMNS:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind}")
    for sequence in SEQUENCES:
        op.execute(f"ALTER SEQUENCE {sequence} AS {kind}")
