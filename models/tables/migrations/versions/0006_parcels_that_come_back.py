"""Parcels that come back: called back at the carrier, refused at the door, or returned by the customer."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_MESSAGES = (
    "'order_confirmed', 'order_rejected', 'order_cancelled', 'shipped', 'shipment_cancelled', 'shipment_lost', {}"
    "'late', 'refunded', 'review_reminder', 'review_escalated'"
)
_REVIEWS = (
    "'risk', 'plan', 'backorder', 'step_failed', 'compensation_failed', 'shipment_exception', 'shipment_lost', "
    "{}'settlement'"
)
_SHIPMENTS = (
    "'planned', 'pick_requested', 'picked', 'labelled', 'handed_over', 'in_transit', 'out_for_delivery', 'delivered', "
    "'in_review', 'needs_operator', 'cancelling', 'cancelled', 'lost'{}"
)
# (table, column, what stood there before with a place for what is new, what is new)
_CHECKS = (
    ("notifications", "template", _MESSAGES, "'shipment_returned', 'parcel_recalled', 'return_requested', "),
    ("review_tasks", "kind", _REVIEWS, "'return', "),
    ("shipments", "state", _SHIPMENTS, ", 'returning', 'returned'"),
    ("shipping_operations", "kind", "'pick', 'cancel_pick', 'label', 'void_label'{}", ", 'intercept'"),
)


def _check(table: str, column: str, values: str) -> None:
    name = op.f(f"ck_{table}_{column}")
    op.drop_constraint(name, table)
    op.create_check_constraint(name, table, f"{column} IN ({values})")


def upgrade() -> None:
    for table, column, values, new in _CHECKS:
        _check(table, column, values.format(new))


def downgrade() -> None:
    op.execute(
        "DELETE FROM notifications WHERE template IN ('shipment_returned', 'parcel_recalled', 'return_requested')"
    )
    op.execute("UPDATE review_tasks SET kind = 'shipment_exception' WHERE kind = 'return'")
    op.execute("UPDATE shipments SET state = 'in_transit' WHERE state = 'returning'")
    op.execute("UPDATE shipments SET state = 'lost' WHERE state = 'returned'")
    op.execute("DELETE FROM shipping_operations WHERE kind = 'intercept'")
    for table, column, values, _new in _CHECKS:
        _check(table, column, values.format(""))
