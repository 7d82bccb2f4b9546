"""What a plan was made from is kept beside it: it can be explained, asked what if, and made again."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026_decisions"
down_revision = "0025_settlements"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("plans", sa.Column("problem", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("plans", "problem")
