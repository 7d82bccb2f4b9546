"""Two messages more: a customer hears of each parcel of several that will not come."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_CHECK = "ck_notifications_template"
_BEFORE = (
    "'order_confirmed', 'order_rejected', 'order_cancelled', 'shipped', 'late', 'refunded', 'review_reminder', "
    "'review_escalated'"
)
_NOW = (
    "'order_confirmed', 'order_rejected', 'order_cancelled', 'shipped', 'shipment_cancelled', 'shipment_lost', 'late', "
    "'refunded', 'review_reminder', 'review_escalated'"
)


def upgrade() -> None:
    op.drop_constraint(op.f(_CHECK), "notifications")
    op.create_check_constraint(op.f(_CHECK), "notifications", f"template IN ({_NOW})")


def downgrade() -> None:
    op.execute("DELETE FROM notifications WHERE template IN ('shipment_cancelled', 'shipment_lost')")
    op.drop_constraint(op.f(_CHECK), "notifications")
    op.create_check_constraint(op.f(_CHECK), "notifications", f"template IN ({_BEFORE})")
