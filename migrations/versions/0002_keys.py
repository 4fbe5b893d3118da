"""API keys, and the answers that are kept for their Idempotency-Key."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Add what an older worker never looks at."""
    op.create_table(
        "keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("revoked_at", sa.Double()),
        sa.Column("used_at", sa.Double()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_keys_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
    )
    op.create_index("ix_keys_project_id_id", "keys", ["project_id", "id"])
    op.create_table(
        "idempotency",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lease", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("digest", sa.Text()),
        sa.Column("status", sa.Integer()),
        sa.Column("location", sa.Text()),
        sa.Column("body", sa.Text()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_idempotency_project_id_projects"),
        sa.PrimaryKeyConstraint("project_id", "route", "key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])


def downgrade() -> None:
    """Take both tables away, with all keys."""
    op.drop_table("idempotency")
    op.drop_table("keys")
