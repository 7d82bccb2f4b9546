"""When nodes work, and when carriers collect and deliver; where nodes and postcodes are."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0028_calendars"
down_revision = "0027_policies"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("calendar", postgresql.JSONB(), nullable=True))
    for column in ("latitude", "longitude"):
        op.add_column("nodes", sa.Column(column, sa.Float(), nullable=True))
    for column in ("pickup_days", "delivery_days"):
        op.add_column("carrier_services", sa.Column(column, postgresql.ARRAY(sa.String()), nullable=True))
    op.add_column(
        "carrier_services",
        sa.Column("holiday_delivery", sa.Boolean(), server_default=sa.text("true"), nullable=False),
    )
    op.create_table(
        "postcode_centroids",
        sa.Column("country", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("latitude", sa.Float(), nullable=False),
        sa.Column("longitude", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("country", "prefix", name="pk_postcode_centroids"),
    )


def downgrade() -> None:
    op.drop_table("postcode_centroids")
    for column in ("holiday_delivery", "delivery_days", "pickup_days"):
        op.drop_column("carrier_services", column)
    for column in ("longitude", "latitude", "calendar"):
        op.drop_column("nodes", column)
