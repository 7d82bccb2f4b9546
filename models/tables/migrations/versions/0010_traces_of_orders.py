"""The trace of the request that an order came with, for the run that is started for it later."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("intake", sa.Column("traceparent", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("intake", "traceparent")
