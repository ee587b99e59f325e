"""What each deployment was made to be, change by change."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    revisions = op.create_table(
        "deployment_revision",
        sa.Column("deployment", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("instances_generation", sa.Integer(), nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("profile", JSON, nullable=False),
        sa.Column("files", JSON, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("ran", sa.Boolean(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("deployment", "generation"),
    )
    _begin_with_what_is_wanted_today(revisions)


def _begin_with_what_is_wanted_today(revisions: sa.Table) -> None:
    deployment = sa.table(
        "deployment",
        sa.column("name", sa.String()),
        sa.column("projection", JSON),
        sa.column("generation", sa.Integer()),
        sa.column("updated_at", sa.DateTime(timezone=True)),
    )
    instance = sa.table(
        "instance", sa.column("deployment", sa.String()), sa.column("generation", sa.Integer()), sa.column("state")
    )
    connection = op.get_bind()
    running = sa.select(instance.c.deployment, instance.c.generation).where(instance.c.state == "running").distinct()
    ran = {(name, generation) for name, generation in connection.execute(running)}
    rows = []
    for name, projection, generation, updated_at in connection.execute(sa.select(*deployment.c)):
        made_of = projection.get("instances_generation") or generation
        rows.append(
            {
                "deployment": name,
                "generation": generation,
                "instances_generation": made_of,
                **{part: projection[part] for part in ("spec", "profile", "files")},
                "state": "current",
                "ran": (name, made_of) in ran,
                "by": "",
                "reason": "",
                "created_at": updated_at,
            }
        )
    op.bulk_insert(revisions, rows)


def downgrade() -> None:
    op.drop_table("deployment_revision")
