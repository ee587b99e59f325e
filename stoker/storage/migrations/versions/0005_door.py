"""What a key may do, names for deployments, and what requests used."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
MOMENT = sa.DateTime(timezone=True)
ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("api_key", schema=None) as batch_op:
        batch_op.add_column(sa.Column("expires_at", MOMENT, nullable=True))
        batch_op.add_column(sa.Column("models", JSON, nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("limits", JSON, nullable=False, server_default="{}"))
    op.execute("UPDATE api_key SET role = 'user' WHERE role = 'inference'")
    op.create_table(
        "model_route",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "usage",
        sa.Column("id", ROW_NUMBER, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("asked", sa.String(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("streamed", sa.Boolean(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("first_token_seconds", sa.Float(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_usage_ended_at", "usage", ["ended_at"], unique=False)
    op.create_index("ix_usage_key_id", "usage", ["key_id", "ended_at"], unique=False)
    op.create_table(
        "usage_hour",
        sa.Column("hour", MOMENT, nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("status_class", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("first_token_seconds", sa.Float(), nullable=False),
        sa.Column("streams", sa.BigInteger(), nullable=False),
        sa.Column("next_tokens_seconds", sa.Float(), nullable=False),
        sa.Column("next_tokens", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "key_id", "model", "status_class"),
    )
    op.create_table(
        "usage_batch",
        sa.Column("recorder", sa.String(), nullable=False),
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("written_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("recorder"),
    )


def downgrade() -> None:
    for table in ("usage_batch", "usage_hour", "usage", "model_route"):
        op.drop_table(table)
    op.execute("UPDATE api_key SET role = 'inference' WHERE role = 'user'")
    with op.batch_alter_table("api_key", schema=None) as batch_op:
        batch_op.drop_column("limits")
        batch_op.drop_column("models")
        batch_op.drop_column("expires_at")
