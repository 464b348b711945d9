"""Ask destinations for storage commitment, and owe senders the report of theirs."""

import sqlalchemy as sa
from alembic import op

from dicomnode.records.column_types import UtcDateTime

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing was asked so far."""
    op.add_column("deliveries", sa.Column("transaction_uid", sa.String(), nullable=True))
    count = sa.Column("commitment_attempt", sa.Integer(), nullable=False, server_default="0")
    op.add_column("deliveries", count)
    op.create_table(
        "commitment_requests",
        sa.Column("transaction_uid", sa.String(), primary_key=True),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("answered_at", UtcDateTime(), nullable=True),
    )
    op.create_index("ix_commitment_requests_job_id", "commitment_requests", ["job_id"])
    op.create_table(
        "commitment_reports",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("transaction_uid", sa.String(), nullable=False),
        sa.Column("referenced", sa.JSON(), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("reported_at", UtcDateTime(), nullable=True),
        sa.Column("last_status", sa.String(), nullable=True),
        sa.UniqueConstraint("peer", "transaction_uid"),
    )
    op.create_index("commitment_reports_by_state", "commitment_reports", ["state", "peer", "not_before"])


def downgrade() -> None:
    """What waits for a commitment counts as delivered, as it did before."""
    op.execute("UPDATE deliveries SET state = 'delivered' WHERE state = 'stored'")
    op.drop_table("commitment_reports")
    op.drop_table("commitment_requests")
    op.drop_column("deliveries", "commitment_attempt")
    op.drop_column("deliveries", "transaction_uid")
