"""What the configuration file last described for each model."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table; it is empty, so the next start describes every model anew."""
    op.create_table(
        "declared_releases",
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("release_id", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_declared_releases")),
    )
