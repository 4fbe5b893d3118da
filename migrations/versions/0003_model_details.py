"""What else is known of a model: a column that an older release neither writes nor reads."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Add the column, empty."""
    with op.batch_alter_table("models") as table:
        table.add_column(sa.Column("details", JSON))


def downgrade() -> None:
    """Take the column away."""
    with op.batch_alter_table("models") as table:
        table.drop_column("details")
