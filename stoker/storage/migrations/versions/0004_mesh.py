"""The cluster's certificates, join tokens, links between workers, files on workers, claims that are being given up."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    with op.batch_alter_table("worker", schema=None) as batch_op:
        batch_op.add_column(sa.Column("files", JSON, nullable=False, server_default="[]"))
    with op.batch_alter_table("claim", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ending", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "authority",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("private_key", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "certificate",
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("revoked_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("serial"),
    )
    op.create_index("ix_certificate_holder", "certificate", ["holder"], unique=False)
    op.create_table(
        "join_token",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("used_at", MOMENT, nullable=True),
        sa.Column("used_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_join_token_hash", "join_token", ["hash"], unique=False)
    op.create_table(
        "worker_link",
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("round_trip_seconds", sa.Float(), nullable=False),
        sa.Column("bytes_per_second", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("checked_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("worker", "peer"),
    )


def downgrade() -> None:
    op.drop_table("worker_link")
    op.drop_index("ix_join_token_hash", table_name="join_token")
    op.drop_table("join_token")
    op.drop_index("ix_certificate_holder", table_name="certificate")
    op.drop_table("certificate")
    op.drop_table("authority")
    with op.batch_alter_table("claim", schema=None) as batch_op:
        batch_op.drop_column("ending")
    with op.batch_alter_table("worker", schema=None) as batch_op:
        batch_op.drop_column("files")
