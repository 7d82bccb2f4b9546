"""Other means of payment for an order whose payment was declined, and the message that asks for one."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0012c_inbound"
branch_labels = None
depends_on = None

_TABLE = "order_tenders"
_MESSAGES = (
    "'order_confirmed', 'order_rejected', 'order_cancelled', 'shipped', 'shipment_cancelled', 'shipment_lost', "
    "'shipment_returned', 'parcel_recalled', {}'return_requested', 'late', 'refunded', 'review_reminder', "
    "'review_escalated'"
)
_NEW = "'order_amended', 'payment_declined', "


def _templates(values: str) -> None:
    name = op.f("ck_notifications_template")
    op.drop_constraint(name, "notifications")
    op.create_check_constraint(name, "notifications", f"template IN ({values})")


def upgrade() -> None:
    op.create_table(
        _TABLE,
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("offered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("offered_by", sa.String(), nullable=False),
        sa.CheckConstraint("state IN ('offered', 'taken', 'refused')", name=op.f("ck_order_tenders_state")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_order_tenders_number")),
        sa.CheckConstraint("kind = 'card'", name=op.f("ck_order_tenders_kind")),
        sa.CheckConstraint("token <> ''", name=op.f("ck_order_tenders_token")),
        sa.ForeignKeyConstraint(
            ["order_id"], ["orders.order_id"], name=op.f("fk_order_tenders_order_id_orders")
        ),
        sa.PrimaryKeyConstraint("order_id", "number", name=op.f("pk_order_tenders")),
    )
    op.create_index("uq_order_tenders_request", _TABLE, ["order_id", "request_id"], unique=True)
    op.create_index("ix_order_tenders_offered", _TABLE, ["offered_at"], postgresql_where="state = 'offered'")
    op.add_column("notifications", sa.Column("pay_link_version", sa.Integer(), nullable=True))
    _templates(_MESSAGES.format(_NEW))


def downgrade() -> None:
    op.execute("DELETE FROM notifications WHERE template IN ('order_amended', 'payment_declined')")
    _templates(_MESSAGES.format(""))
    op.drop_column("notifications", "pay_link_version")
    op.drop_table(_TABLE)
