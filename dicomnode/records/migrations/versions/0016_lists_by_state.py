"""List studies, jobs and deliveries of one state without reading all that there ever were."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Index all three."""
    op.create_index("studies_held", "studies", ["state", "held_reason"])
    op.create_index("jobs_listed", "jobs", ["state", "id"])
    op.create_index("deliveries_listed", "deliveries", ["state", "id"])


def downgrade() -> None:
    """Lists of dead letters and running jobs are slow again after years of work."""
    op.drop_index("deliveries_listed", "deliveries")
    op.drop_index("jobs_listed", "jobs")
    op.drop_index("studies_held", "studies")
