"""Models by digest, shadow jobs, and comparisons of candidates with the live model."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables of models, and what jobs say of them."""
    op.create_table(
        "models",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("replaced_by", sa.String(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("ix_models_name", "models", ["name"])
    live = sa.text("state = 'live'")
    op.create_index(
        "one_live_version", "models", ["name"], unique=True, sqlite_where=live, postgresql_where=live
    )
    op.add_column("jobs", sa.Column("shadow", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("summary", sa.JSON(), nullable=True))
    op.drop_index("jobs_by_rank", "jobs")
    op.create_index("jobs_by_rank", "jobs", ["state", "shadow", "ranked_at"])
    op.create_table(
        "comparisons",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(), nullable=False),
        sa.Column("series_instance_uid", sa.String(), nullable=False),
        sa.Column("live_job_id", sa.Integer(), nullable=False),
        sa.Column("candidate_job_id", sa.Integer(), nullable=False),
        sa.Column("live_digest", sa.String(), nullable=False),
        sa.Column("candidate_digest", sa.String(), nullable=False),
        sa.Column("compared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("live_voxels", sa.Integer(), nullable=True),
        sa.Column("candidate_voxels", sa.Integer(), nullable=True),
        sa.Column("common_voxels", sa.Integer(), nullable=True),
        sa.Column("dice", sa.Double(), nullable=True),
        sa.Column("live_volume_mm3", sa.Double(), nullable=True),
        sa.Column("candidate_volume_mm3", sa.Double(), nullable=True),
        sa.Column("found_by_both", sa.Integer(), nullable=True),
        sa.Column("only_live", sa.Integer(), nullable=True),
        sa.Column("only_candidate", sa.Integer(), nullable=True),
        sa.Column("lesions", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["live_job_id"], ["jobs.id"]),
        sa.ForeignKeyConstraint(["candidate_job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("live_job_id", "candidate_job_id"),
    )
    for column in ("study_instance_uid", "candidate_job_id", "compared_at"):
        op.create_index(f"ix_comparisons_{column}", "comparisons", [column])
    op.create_index("comparisons_by_models", "comparisons", ["live_digest", "candidate_digest", "dice"])


def downgrade() -> None:
    """Remove them again."""
    op.drop_table("comparisons")
    op.drop_index("jobs_by_rank", "jobs")
    op.create_index("jobs_by_rank", "jobs", ["state", "ranked_at"])
    op.drop_column("jobs", "summary")
    op.drop_column("jobs", "shadow")
    op.drop_table("models")
