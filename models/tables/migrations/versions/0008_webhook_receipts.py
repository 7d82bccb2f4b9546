"""Which webhooks were answered for, so that none has an effect twice."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TABLE = "webhook_receipts"


def upgrade() -> None:
    op.create_table(
        _TABLE,
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("result", sa.String(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("result IN ('delivered', 'late')", name=op.f("ck_webhook_receipts_result")),
        sa.PrimaryKeyConstraint("workflow_id", "event_id", name=op.f("pk_webhook_receipts")),
    )
    op.create_index("ix_webhook_receipts_received", _TABLE, ["received_at"])


def downgrade() -> None:
    op.drop_table(_TABLE)
