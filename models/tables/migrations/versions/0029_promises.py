"""Promises before there are orders, each with the plan that its order is shipped by."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0029_promises"
down_revision = "0028_calendars"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "promises",
        sa.Column("promise_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("request_hash", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("plan", postgresql.JSONB(), nullable=False),
        sa.Column("problem", postgresql.JSONB(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("order_id", sa.String(), nullable=True),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_taken", sa.String(), nullable=True),
        sa.CheckConstraint("(order_id IS NULL) = (taken_at IS NULL)", name=op.f("ck_promises_taken_at")),
        sa.CheckConstraint("order_id IS NULL OR not_taken IS NULL", name=op.f("ck_promises_not_taken")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.order_id"], name=op.f("fk_promises_order_id_orders")),
        sa.PrimaryKeyConstraint("promise_id", name=op.f("pk_promises")),
    )
    op.create_index("uq_promises_request", "promises", ["request_id"], unique=True)
    op.create_index("ix_promises_order", "promises", ["order_id"])
    op.create_index("ix_promises_untaken", "promises", ["valid_until"], postgresql_where="order_id IS NULL")


def downgrade() -> None:
    op.drop_table("promises")
