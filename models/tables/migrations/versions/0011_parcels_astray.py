"""Where the API looks every few minutes for parcels that move although our books have given them up."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_late_events_received", "late_events", ["received_at"])
    op.create_index(
        "ix_timeline_unexpected", "timeline", ["recorded_at"], postgresql_where="kind = 'carrier.unexpected'"
    )
    op.create_index(
        "ix_payment_operations_refunded",
        "payment_operations",
        ["answered_at"],
        postgresql_where="kind = 'refund'",
    )
    op.create_index(
        "ix_shipments_given_up",
        "shipments",
        ["updated_at"],
        postgresql_where="state IN ('cancelled', 'lost')",
    )


def downgrade() -> None:
    op.drop_index("ix_shipments_given_up", "shipments")
    op.drop_index("ix_payment_operations_refunded", "payment_operations")
    op.drop_index("ix_timeline_unexpected", "timeline")
    op.drop_index("ix_late_events_received", "late_events")
