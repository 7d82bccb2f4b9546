"""Start: intake, projections, journal, operations, stock.

Alembic does not compare triggers, so these are written and changed by hand.
"""

# ruff: noqa: E501 - lists of states read best on one line

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# Journals only grow. A correction is a new row, so that what was known when stays readable.
APPEND_ONLY = """
CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$
"""

# No movement of money is even asked for beyond what it comes from: captures and voids stay within their authorisation,
# refunds within their capture. Checked when an operation is intended, under the order's row lock, so that two at once
# cannot both fit. What a neighbour answers later is a fact and is always recorded.
MONEY_WITHIN_BOUNDS = """
CREATE FUNCTION money_within_bounds() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    available bigint;
    spoken_for bigint;
BEGIN
    PERFORM 1 FROM orders WHERE order_id = NEW.order_id FOR NO KEY UPDATE;
    SELECT coalesce(sum(amount_minor), 0) INTO available FROM payment_operations
     WHERE kind = CASE NEW.kind WHEN 'capture' THEN 'authorise' ELSE 'capture' END
       AND provider_ref = NEW.parent AND currency = NEW.currency AND order_id = NEW.order_id
       AND state IN ('confirmed', 'called_off');
    SELECT coalesce(sum(amount_minor), 0) INTO spoken_for FROM payment_operations
     WHERE parent = NEW.parent AND key <> NEW.key
       AND ((kind = NEW.kind AND state IN ('intended', 'confirmed'))
            OR (NEW.kind = 'capture' AND kind = 'void' AND state = 'confirmed'));
    IF spoken_for + NEW.amount_minor > available THEN
        RAISE EXCEPTION 'a % of % % is beyond bounds: % of % are spoken for',
            NEW.kind, NEW.amount_minor, NEW.currency, spoken_for, available
            USING ERRCODE = 'check_violation', CONSTRAINT = 'money_within_bounds';
    END IF;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "carrier_services",
        sa.Column("carrier", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("max_weight_g", sa.Integer(), nullable=False),
        sa.Column("zones", postgresql.JSONB(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("carrier", "service", name="pk_carrier_services"),
    )
    op.create_table(
        "intake",
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("external_id", sa.String(), nullable=False),
        sa.Column("document_hash", sa.String(), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("speed", sa.Float(), nullable=False),
        sa.Column("business_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'started') = (started_at IS NOT NULL)", name=op.f("ck_intake_started_at")
        ),
        sa.CheckConstraint("order_id = channel || ':' || external_id", name=op.f("ck_intake_order_id")),
        sa.CheckConstraint("state IN ('accepted', 'started')", name=op.f("ck_intake_state")),
        sa.PrimaryKeyConstraint("order_id", name="pk_intake"),
    )
    op.create_index(
        "ix_intake_unstarted",
        "intake",
        ["received_at"],
        unique=False,
        postgresql_where=sa.text("state = 'accepted'"),
    )
    op.create_table(
        "late_events",
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("event", postgresql.JSONB(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id", "workflow_id", name="pk_late_events"),
    )
    op.create_index("ix_late_events_workflow", "late_events", ["workflow_id"], unique=False)
    op.create_table(
        "network",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("unit_weight_g", sa.Integer(), nullable=False),
        sa.Column("split_penalty_minor", sa.BigInteger(), nullable=False),
        sa.Column("processing_days", sa.Integer(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_network_only_one")),
        sa.PrimaryKeyConstraint("id", name="pk_network"),
    )
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("country", sa.String(), nullable=False),
        sa.Column("time_zone", sa.String(), nullable=False),
        sa.Column("handling_minor", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_nodes"),
    )
    op.create_table(
        "notifications",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("audience", sa.String(), nullable=False),
        sa.Column("template", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("message_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'sent') = (message_id IS NOT NULL)", name=op.f("ck_notifications_sent")),
        sa.CheckConstraint("audience IN ('customer', 'reviewers')", name=op.f("ck_notifications_audience")),
        sa.CheckConstraint("state IN ('pending', 'sent', 'no_address')", name=op.f("ck_notifications_state")),
        sa.CheckConstraint(
            "template IN ('order_confirmed', 'order_rejected', 'order_cancelled', 'shipped', 'late', 'refunded', 'review_reminder', 'review_escalated')",
            name=op.f("ck_notifications_template"),
        ),
        sa.PrimaryKeyConstraint("key", name="pk_notifications"),
    )
    op.create_index("ix_notifications_order", "notifications", ["order_id"], unique=False)
    op.create_table(
        "outcomes",
        sa.Column("outcome_id", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("shipment_id", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("promised_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("actual_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cost_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(), nullable=True),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("details", postgresql.JSONB(), nullable=False),
        sa.Column("known_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('order', 'shipment')", name=op.f("ck_outcomes_kind")),
        sa.CheckConstraint("(cost_minor IS NULL) = (currency IS NULL)", name=op.f("ck_outcomes_cost")),
        sa.PrimaryKeyConstraint("outcome_id", name="pk_outcomes"),
    )
    op.create_index("ix_outcomes_known", "outcomes", ["known_at"], unique=False)
    op.create_index("ix_outcomes_order", "outcomes", ["order_id"], unique=False)
    op.create_table(
        "payment_operations",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("shipment_id", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=True),
        sa.Column("provider_ref", sa.String(), nullable=True),
        sa.Column("answer", postgresql.JSONB(), nullable=True),
        sa.Column("intended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=True),
        sa.CheckConstraint(
            "kind <> 'refund' OR cause IS NOT NULL", name=op.f("ck_payment_operations_refund_cause")
        ),
        sa.CheckConstraint(
            "kind = 'void' OR state <> 'confirmed' OR provider_ref IS NOT NULL",
            name=op.f("ck_payment_operations_provider_ref"),
        ),
        sa.CheckConstraint(
            "kind IN ('authorise', 'void', 'capture', 'refund')", name=op.f("ck_payment_operations_kind")
        ),
        sa.CheckConstraint(
            "kind NOT IN ('capture', 'refund') OR parent IS NOT NULL",
            name=op.f("ck_payment_operations_parent"),
        ),
        sa.CheckConstraint(
            "state IN ('intended', 'confirmed', 'declined', 'refused', 'called_off')",
            name=op.f("ck_payment_operations_state"),
        ),
        sa.CheckConstraint("amount_minor >= 0", name=op.f("ck_payment_operations_not_negative")),
        sa.PrimaryKeyConstraint("key", name="pk_payment_operations"),
    )
    op.create_index("ix_payment_operations_order", "payment_operations", ["order_id"], unique=False)
    op.create_index("ix_payment_operations_parent", "payment_operations", ["kind", "parent"], unique=False)
    op.create_index(
        "uq_payment_operations_provider_ref", "payment_operations", ["kind", "provider_ref"], unique=True
    )
    op.create_table(
        "reservations",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("plan_id", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('held', 'released')", name=op.f("ck_reservations_state")),
        sa.PrimaryKeyConstraint("key", name="pk_reservations"),
    )
    op.create_index(
        "ix_reservations_expiry",
        "reservations",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_index("ix_reservations_order", "reservations", ["order_id"], unique=False)
    op.create_table(
        "review_tasks",
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reminders", sa.Integer(), nullable=False),
        sa.Column("escalated", sa.Boolean(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("task", postgresql.JSONB(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('risk', 'plan', 'backorder', 'step_failed', 'compensation_failed', 'shipment_exception', 'shipment_lost', 'settlement')",
            name=op.f("ck_review_tasks_kind"),
        ),
        sa.CheckConstraint(
            "state IN ('open', 'decided', 'expired', 'withdrawn')", name=op.f("ck_review_tasks_state")
        ),
        sa.CheckConstraint("verdict IN ('approve', 'reject')", name=op.f("ck_review_tasks_verdict")),
        sa.PrimaryKeyConstraint("task_id", name="pk_review_tasks"),
    )
    op.create_index("ix_review_tasks_order", "review_tasks", ["order_id"], unique=False)
    op.create_index("ix_review_tasks_state", "review_tasks", ["state", "opened_at", "task_id"], unique=False)
    op.create_table(
        "shipping_operations",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("shipment_id", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=True),
        sa.Column("provider_ref", sa.String(), nullable=True),
        sa.Column("answer", postgresql.JSONB(), nullable=True),
        sa.Column("intended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('pick', 'cancel_pick', 'label', 'void_label')", name=op.f("ck_shipping_operations_kind")
        ),
        sa.CheckConstraint(
            "state IN ('intended', 'confirmed', 'declined', 'refused', 'called_off')",
            name=op.f("ck_shipping_operations_state"),
        ),
        sa.PrimaryKeyConstraint("key", name="pk_shipping_operations"),
    )
    op.create_index("ix_shipping_operations_shipment", "shipping_operations", ["shipment_id"], unique=False)
    op.create_table(
        "timeline",
        sa.Column("entry_id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("shipment_id", sa.String(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("business_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=True),
        sa.Column("policy_version", sa.String(), nullable=True),
        sa.Column("model_version", sa.String(), nullable=True),
        sa.Column("details", postgresql.JSONB(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("entry_id", name="pk_timeline"),
    )
    op.create_index("ix_timeline_order", "timeline", ["order_id", "position"], unique=False)
    op.create_index("uq_timeline_position", "timeline", ["position"], unique=True)
    op.create_table(
        "orders",
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("external_id", sa.String(), nullable=False),
        sa.Column("customer_type", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("needs_review", sa.Boolean(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("goods_minor", sa.BigInteger(), nullable=False),
        sa.Column("line_count", sa.Integer(), nullable=False),
        sa.Column("unit_count", sa.BigInteger(), nullable=False),
        sa.Column("ship_country", sa.String(), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("promised_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("plan_id", sa.String(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("exit_reason", sa.String(), nullable=True),
        sa.CheckConstraint("customer_type IN ('b2c', 'b2b')", name=op.f("ck_orders_customer_type")),
        sa.CheckConstraint(
            "state IN ('received', 'validating', 'assessing', 'authorising', 'routing', 'backordered', 'reserving', 'released', 'partially_shipped', 'shipped', 'delivered', 'closed', 'in_review', 'awaiting_customer', 'rejected', 'cancelling', 'cancelled', 'compensating', 'compensated', 'needs_operator')",
            name=op.f("ck_orders_state"),
        ),
        sa.CheckConstraint(
            "line_count >= 0 AND unit_count >= 0 AND version >= 0", name=op.f("ck_orders_not_negative")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["intake.order_id"], name="fk_orders_order_id_intake"),
        sa.PrimaryKeyConstraint("order_id", name="pk_orders"),
        sa.UniqueConstraint("workflow_id", name="uq_orders_workflow_id"),
    )
    op.create_index("ix_orders_channel", "orders", ["channel", "created_at", "order_id"], unique=False)
    op.create_index("ix_orders_created", "orders", ["created_at", "order_id"], unique=False)
    op.create_index(
        "ix_orders_needs_review",
        "orders",
        ["created_at", "order_id"],
        unique=False,
        postgresql_where=sa.text("needs_review"),
    )
    op.create_index("ix_orders_state", "orders", ["state", "created_at", "order_id"], unique=False)
    op.create_table(
        "stock",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("on_hand", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "0 <= reserved AND reserved <= on_hand", name=op.f("ck_stock_reserved_within_on_hand")
        ),
        sa.ForeignKeyConstraint(["node"], ["nodes.node_id"], name="fk_stock_node_nodes"),
        sa.PrimaryKeyConstraint("node", "sku", name="pk_stock"),
    )
    op.create_index("ix_stock_sku", "stock", ["sku"], unique=False)
    op.create_table(
        "order_lines",
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("line_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("unit_price_minor", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_order_lines_quantity")),
        sa.CheckConstraint("unit_price_minor >= 0", name=op.f("ck_order_lines_not_negative")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.order_id"], name="fk_order_lines_order_id_orders"),
        sa.PrimaryKeyConstraint("order_id", "line_id", name="pk_order_lines"),
    )
    op.create_index("ix_order_lines_sku", "order_lines", ["sku"], unique=False)
    op.create_table(
        "plans",
        sa.Column("plan_id", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("plan", postgresql.JSONB(), nullable=False),
        sa.Column("summary", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.order_id"], name="fk_plans_order_id_orders"),
        sa.PrimaryKeyConstraint("plan_id", name="pk_plans"),
    )
    op.create_index("uq_plans_attempt", "plans", ["order_id", "attempt"], unique=True)
    op.create_table(
        "reserved_units",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("shipment_id", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.CheckConstraint("state IN ('held', 'released', 'consumed')", name=op.f("ck_reserved_units_state")),
        sa.CheckConstraint("quantity >= 0", name=op.f("ck_reserved_units_not_negative")),
        sa.ForeignKeyConstraint(["key"], ["reservations.key"], name="fk_reserved_units_key_reservations"),
        sa.ForeignKeyConstraint(
            ["node", "sku"], ["stock.node", "stock.sku"], name="fk_reserved_units_node_stock"
        ),
        sa.PrimaryKeyConstraint("key", "shipment_id", "node", "sku", name="pk_reserved_units"),
    )
    op.create_index(
        "ix_reserved_units_held",
        "reserved_units",
        ["node", "sku"],
        unique=False,
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_index("ix_reserved_units_shipment", "reserved_units", ["shipment_id"], unique=False)
    op.create_table(
        "shipments",
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("shipment_id", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("carrier", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("promised_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tracking", sa.String(), nullable=True),
        sa.Column("handed_over_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "state IN ('planned', 'pick_requested', 'picked', 'labelled', 'handed_over', 'in_transit', 'out_for_delivery', 'delivered', 'in_review', 'needs_operator', 'cancelling', 'cancelled', 'lost')",
            name=op.f("ck_shipments_state"),
        ),
        sa.CheckConstraint("amount_minor >= 0 AND units >= 0", name=op.f("ck_shipments_not_negative")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.order_id"], name="fk_shipments_order_id_orders"),
        sa.PrimaryKeyConstraint("shipment_id", name="pk_shipments"),
    )
    op.create_index("ix_shipments_state", "shipments", ["state"], unique=False)
    op.create_index("ix_shipments_tracking", "shipments", ["tracking"], unique=False)
    op.create_index("uq_shipments_number", "shipments", ["order_id", "number"], unique=True)

    op.execute(APPEND_ONLY)
    for table in ("timeline", "outcomes"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION append_only()"
        )
        op.execute(
            f"CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
        )
    op.execute(MONEY_WITHIN_BOUNDS)
    op.execute(
        "CREATE TRIGGER money_within_bounds BEFORE INSERT OR UPDATE OF state ON payment_operations FOR EACH ROW "
        "WHEN (NEW.kind IN ('capture', 'refund') AND NEW.state = 'intended') "
        "EXECUTE FUNCTION money_within_bounds()"
    )


def downgrade() -> None:
    op.drop_table("shipments")
    op.drop_table("reserved_units")
    op.drop_table("plans")
    op.drop_table("order_lines")
    op.drop_table("stock")
    op.drop_table("orders")
    op.drop_table("timeline")
    op.drop_table("shipping_operations")
    op.drop_table("review_tasks")
    op.drop_table("reservations")
    op.drop_table("payment_operations")
    op.drop_table("outcomes")
    op.drop_table("notifications")
    op.drop_table("nodes")
    op.drop_table("network")
    op.drop_table("late_events")
    op.drop_table("intake")
    op.drop_table("carrier_services")
    op.execute("DROP FUNCTION money_within_bounds")
    op.execute("DROP FUNCTION append_only")
