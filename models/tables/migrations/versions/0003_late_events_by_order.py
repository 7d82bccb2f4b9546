"""Late events know their order, so that it can show them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("late_events", sa.Column("order_id", sa.String(), nullable=True))
    # order:CHANNEL:NUMBER and shipment:CHANNEL:NUMBER:N name the same order.
    op.execute(
        "UPDATE late_events SET order_id = split_part(workflow_id, ':', 2) || ':' || split_part(workflow_id, ':', 3)"
    )
    op.alter_column("late_events", "order_id", nullable=False)
    op.drop_index("ix_late_events_workflow", table_name="late_events")
    op.create_index("ix_late_events_order", "late_events", ["order_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_late_events_order", table_name="late_events")
    op.create_index("ix_late_events_workflow", "late_events", ["workflow_id"], unique=False)
    op.drop_column("late_events", "order_id")
