"""What changed in the fleet, and since when; draining workers; a priority and a digest that need no JSON."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("worker", schema=None) as batch_op:
        batch_op.add_column(sa.Column("draining", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("report_version", sa.BigInteger(), nullable=False, server_default="1"))
    with op.batch_alter_table("deployment", schema=None) as batch_op:
        batch_op.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.add_column(sa.Column("request_digest", sa.String(), nullable=False, server_default=""))
    op.create_table(
        "fleet_change",
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("worker"),
    )
    with op.batch_alter_table("fleet_change", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_fleet_change_version"), ["version"], unique=False)
    op.execute(
        "INSERT INTO fleet_change (worker, version) SELECT name, 1 FROM worker UNION SELECT worker, 1 FROM claim"
    )
    deployment = sa.table("deployment", sa.column("projection", JSON), sa.column("priority", sa.Integer))
    priority = deployment.c.projection[("spec", "priority")].as_integer()
    op.execute(deployment.update().values(priority=sa.func.coalesce(priority, 0)))


def downgrade() -> None:
    with op.batch_alter_table("fleet_change", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_fleet_change_version"))
    op.drop_table("fleet_change")
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.drop_column("request_digest")
    with op.batch_alter_table("deployment", schema=None) as batch_op:
        batch_op.drop_column("priority")
    with op.batch_alter_table("worker", schema=None) as batch_op:
        batch_op.drop_column("report_version")
        batch_op.drop_column("draining")
