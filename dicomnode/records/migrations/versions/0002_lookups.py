"""Make looking up fast: indexes, and the peer of an audit event as a column computed from its detail."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = {
    "studies_by_time": ("studies", ["last_received_at", "study_instance_uid"]),
    "studies_by_state": ("studies", ["state", "last_received_at", "study_instance_uid"]),
    "studies_by_peer": ("studies", ["calling_ae_title", "last_received_at", "study_instance_uid"]),
    "studies_by_patient": ("studies", ["patient_id"]),
    "instances_by_series": ("instances", ["series_instance_uid"]),
    "jobs_by_model": ("jobs", ["model", "id"]),
    "audit_events_by_time": ("audit_events", ["at", "id"]),
    "audit_events_by_kind": ("audit_events", ["event", "at", "id"]),
    "audit_events_by_peer": ("audit_events", ["peer", "at", "id"]),
}
REPLACED = {  # each is the beginning of one above
    "ix_studies_state": ("studies", ["state"]),
    "ix_audit_events_at": ("audit_events", ["at"]),
    "ix_audit_events_event": ("audit_events", ["event"]),
}


def upgrade() -> None:
    """Add the column and the indexes. The table is not rewritten, so its triggers stay."""
    if op.get_bind().dialect.name == "sqlite":
        calling, destination = (
            f"json_extract(detail, '$.{key}')" for key in ("calling_ae_title", "destination")
        )
        kept = "VIRTUAL"
    else:
        calling, destination = "detail ->> 'calling_ae_title'", "detail ->> 'destination'"
        kept = "STORED"
    op.execute(
        "ALTER TABLE audit_events ADD COLUMN peer VARCHAR "
        f"GENERATED ALWAYS AS (coalesce({calling}, {destination})) {kept}"
    )
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)
    op.create_index(
        "audit_events_without_study",
        "audit_events",
        ["sop_instance_uid"],
        sqlite_where=sa.text("study_instance_uid IS NULL"),
        postgresql_where=sa.text("study_instance_uid IS NULL"),
    )
    for name, (table, _) in REPLACED.items():
        op.drop_index(name, table)


def downgrade() -> None:
    """Back to the indexes of the first schema."""
    for name, (table, columns) in REPLACED.items():
        op.create_index(name, table, columns)
    op.drop_index("audit_events_without_study", "audit_events")
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    op.execute("ALTER TABLE audit_events DROP COLUMN peer")
