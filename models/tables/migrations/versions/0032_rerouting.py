"""Notices, plans that people set, and orders that are to be planned anew."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0032_rerouting"
down_revision = "0031_light_promises"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "routing_notices",
        sa.Column("notice_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=True),
        sa.Column("carrier", sa.String(), nullable=True),
        sa.Column("service", sa.String(), nullable=True),
        sa.Column("country", sa.String(), nullable=True),
        sa.Column("prefix", sa.String(), nullable=True),
        sa.Column("delay_days", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("posted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_by", sa.String(), nullable=True),
        sa.Column("orders", sa.Integer(), nullable=False),
        sa.Column("spread_to", sa.String(), nullable=True),
        sa.Column("spread_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('node', 'carrier', 'region')", name=op.f("ck_routing_notices_kind")),
        sa.CheckConstraint("(kind = 'node') = (node IS NOT NULL)", name=op.f("ck_routing_notices_node")),
        sa.CheckConstraint(
            "(kind = 'carrier') = (carrier IS NOT NULL)", name=op.f("ck_routing_notices_carrier")
        ),
        sa.CheckConstraint(
            "(kind = 'region') = (country IS NOT NULL)", name=op.f("ck_routing_notices_region")
        ),
        sa.CheckConstraint("service IS NULL OR carrier IS NOT NULL", name=op.f("ck_routing_notices_service")),
        sa.CheckConstraint("prefix IS NULL OR country IS NOT NULL", name=op.f("ck_routing_notices_prefix")),
        sa.CheckConstraint(
            "delay_days IS NULL OR (kind = 'region' AND delay_days > 0)",
            name=op.f("ck_routing_notices_delay_days"),
        ),
        sa.CheckConstraint(
            "(lifted_at IS NULL) = (lifted_by IS NULL)", name=op.f("ck_routing_notices_lifted")
        ),
        sa.PrimaryKeyConstraint("notice_id", name=op.f("pk_routing_notices")),
    )
    op.create_index("uq_routing_notices_request", "routing_notices", ["request_id"], unique=True)
    op.create_index(
        "ix_routing_notices_in_force",
        "routing_notices",
        ["notice_id"],
        postgresql_where="lifted_at IS NULL",
    )
    op.create_index(
        "ix_routing_notices_unspread", "routing_notices", ["notice_id"], postgresql_where="spread_at IS NULL"
    )
    op.create_table(
        "set_plans",
        sa.Column("set_plan_id", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("wish", postgresql.JSONB(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.order_id"], name=op.f("fk_set_plans_order_id_orders")),
        sa.PrimaryKeyConstraint("set_plan_id", name=op.f("pk_set_plans")),
    )
    op.create_index("uq_set_plans_request", "set_plans", ["order_id", "request_id"], unique=True)
    op.create_table(
        "plans_again",
        sa.Column("plan_again_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("message", postgresql.JSONB(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["order_id"], ["orders.order_id"], name=op.f("fk_plans_again_order_id_orders")
        ),
        sa.PrimaryKeyConstraint("plan_again_id", name=op.f("pk_plans_again")),
    )
    op.create_index("uq_plans_again_event", "plans_again", ["order_id", "event_id"], unique=True)
    op.create_index(
        "ix_plans_again_untold", "plans_again", ["plan_again_id"], postgresql_where="told_at IS NULL"
    )
    op.create_index("ix_plans_again_told", "plans_again", ["told_at"])


def downgrade() -> None:
    op.drop_table("plans_again")
    op.drop_table("set_plans")
    op.drop_table("routing_notices")
