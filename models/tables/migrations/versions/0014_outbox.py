"""The transactional outbox: what others are told of, written in the transaction of what it tells of.

Triggers write, so that no code path and no SQL by hand can forget it. They write only what somebody wants to know: a
subscriber of the topic, or a stream that was open lately.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014_outbox"
down_revision = "0011"
branch_labels = None
depends_on = None

# Whoever wants a topic. Two tables of a handful of rows: cheaper to look through than any cache to keep right.
WANTED = """
CREATE FUNCTION outbox_wanted(asked text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM subscribers WHERE asked = ANY (topics);
    IF FOUND THEN RETURN true; END IF;
    PERFORM 1 FROM outbox_streams WHERE topic = asked AND wanted_until > clock_timestamp();
    RETURN FOUND;
END $$
"""

# NOTIFY makes commits wait for each other, so of transactions that run at once only one does it: whoever is woken goes
# on looking until nothing more comes.
WAKE = """
CREATE FUNCTION outbox_wake() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_try_advisory_xact_lock(233120535) THEN
        PERFORM pg_notify('orderwright_outbox', '');
    END IF;
END $$
"""

STAGE = """
CREATE FUNCTION outbox_stage(topic text, key text, type text, payload jsonb, event_id text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox_staged (transaction_id, event_id, topic, key, type, payload, created_at)
    VALUES (pg_current_xact_id()::text::bigint, event_id, topic, key, type, payload, clock_timestamp());
    PERFORM outbox_wake();
END $$
"""

# One statement of an order changes many rows of stock: one call for all of them.
AVAILABILITY = """
CREATE FUNCTION outbox_availability() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT outbox_wanted('availability') THEN RETURN NULL; END IF;
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
        SELECT pg_current_xact_id()::text::bigint, 'availability', n.node || '/' || n.sku, 'availability.changed',
               jsonb_build_object('node', n.node, 'sku', n.sku, 'on_hand', n.on_hand, 'reserved', n.reserved,
                                  'available', n.on_hand - n.reserved),
               clock_timestamp()
          FROM new_rows n JOIN old_rows o USING (node, sku)
         WHERE n.on_hand - n.reserved <> o.on_hand - o.reserved;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
        SELECT pg_current_xact_id()::text::bigint, 'availability', n.node || '/' || n.sku, 'availability.changed',
               jsonb_build_object('node', n.node, 'sku', n.sku, 'on_hand', n.on_hand, 'reserved', n.reserved,
                                  'available', n.on_hand - n.reserved),
               clock_timestamp()
          FROM new_rows n;
    ELSE
        INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
        SELECT pg_current_xact_id()::text::bigint, 'availability', o.node || '/' || o.sku, 'availability.changed',
               jsonb_build_object('node', o.node, 'sku', o.sku, 'on_hand', 0, 'reserved', 0, 'available', 0),
               clock_timestamp()
          FROM old_rows o;
    END IF;
    IF FOUND THEN PERFORM outbox_wake(); END IF;
    RETURN NULL;
END $$
"""

# A version tells one state of a row from every other. What was changed by hand, without one, has an id all the same.
ORDER = """
CREATE FUNCTION outbox_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    told text;
BEGIN
    IF NOT outbox_wanted('orders') THEN RETURN NULL; END IF;
    IF TG_OP = 'INSERT' OR NEW.version > OLD.version THEN
        told := 'order:' || NEW.order_id || ':' || NEW.version;
    END IF;
    PERFORM outbox_stage('orders', NEW.order_id, 'order.changed', jsonb_build_object(
        'order_id', NEW.order_id, 'channel', NEW.channel, 'external_id', NEW.external_id, 'version', NEW.version,
        'state', NEW.state, 'needs_review', NEW.needs_review, 'promised_at', NEW.promised_at,
        'closed_at', NEW.closed_at, 'total_minor', NEW.total_minor, 'currency', NEW.currency), told);
    RETURN NULL;
END $$
"""

SHIPMENT = """
CREATE FUNCTION outbox_shipment() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    told text;
BEGIN
    IF NOT outbox_wanted('orders') THEN RETURN NULL; END IF;
    IF TG_OP = 'INSERT' OR NEW.version > OLD.version THEN
        told := 'shipment:' || NEW.shipment_id || ':' || NEW.version;
    END IF;
    PERFORM outbox_stage('orders', NEW.order_id, 'shipment.changed', jsonb_build_object(
        'order_id', NEW.order_id, 'shipment_id', NEW.shipment_id, 'version', NEW.version, 'state', NEW.state,
        'node', NEW.node, 'carrier', NEW.carrier, 'service', NEW.service, 'units', NEW.units,
        'amount_minor', NEW.amount_minor, 'currency', NEW.currency, 'promised_at', NEW.promised_at,
        'tracking', NEW.tracking, 'handed_over_at', NEW.handed_over_at, 'delivered_at', NEW.delivered_at,
        'late', NEW.late), told);
    RETURN NULL;
END $$
"""

# At the end of the transaction, when all units of the reservation stand there; some find that they are short and go.
COMMITMENT_MADE = """
CREATE FUNCTION outbox_commitment_made() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held jsonb;
BEGIN
    IF NOT outbox_wanted('commitments') THEN RETURN NULL; END IF;
    SELECT jsonb_agg(jsonb_build_object('shipment_id', u.shipment_id, 'node', u.node, 'sku', u.sku,
                                        'quantity', u.quantity) ORDER BY u.shipment_id, u.node, u.sku)
      INTO held FROM reserved_units u WHERE u.key = NEW.key AND u.state = 'held';
    IF held IS NOT NULL THEN
        PERFORM outbox_stage('commitments', NEW.order_id, 'commitment.made', jsonb_build_object(
            'order_id', NEW.order_id, 'reservation', NEW.key, 'plan_id', NEW.plan_id, 'units', held), NULL);
    END IF;
    RETURN NULL;
END $$
"""

COMMITMENT_CHANGED = """
CREATE FUNCTION outbox_commitment_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT outbox_wanted('commitments') THEN RETURN NULL; END IF;
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
        SELECT pg_current_xact_id()::text::bigint, 'commitments', r.order_id,
               'commitment.' || CASE n.state WHEN 'consumed' THEN 'fulfilled' WHEN 'held' THEN 'changed'
                                             ELSE n.state END,
               jsonb_build_object('order_id', r.order_id, 'reservation', n.key, 'plan_id', r.plan_id, 'units',
                   jsonb_agg(jsonb_build_object('shipment_id', n.shipment_id, 'node', n.node, 'sku', n.sku,
                                                'quantity', n.quantity) ORDER BY n.shipment_id, n.node, n.sku)),
               clock_timestamp()
          FROM new_rows n JOIN old_rows o USING (key, shipment_id, node, sku) JOIN reservations r USING (key)
         WHERE n.state <> o.state OR (n.state = 'held' AND n.quantity <> o.quantity)
         GROUP BY r.order_id, r.plan_id, n.key, n.state;
    ELSE
        INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
        SELECT pg_current_xact_id()::text::bigint, 'commitments', r.order_id, 'commitment.released',
               jsonb_build_object('order_id', r.order_id, 'reservation', o.key, 'plan_id', r.plan_id, 'units',
                   jsonb_agg(jsonb_build_object('shipment_id', o.shipment_id, 'node', o.node, 'sku', o.sku,
                                                'quantity', o.quantity) ORDER BY o.shipment_id, o.node, o.sku)),
               clock_timestamp()
          FROM old_rows o JOIN reservations r USING (key)
         WHERE o.state = 'held'
         GROUP BY r.order_id, r.plan_id, o.key;
    END IF;
    IF FOUND THEN PERFORM outbox_wake(); END IF;
    RETURN NULL;
END $$
"""

FULFILMENT = """
CREATE FUNCTION outbox_fulfilment() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    told jsonb;
BEGIN
    IF NOT outbox_wanted('fulfilment') THEN RETURN NULL; END IF;
    told := jsonb_build_object('order_id', NEW.order_id, 'shipment_id', NEW.shipment_id, 'operation', NEW.key,
        'undoes', NEW.parent, 'reference', NEW.provider_ref,
        'node', (SELECT node FROM shipments WHERE shipment_id = NEW.shipment_id));
    IF NEW.kind = 'pick' AND NEW.state = 'intended' THEN
        told := told || jsonb_build_object('lines', (
            SELECT coalesce(jsonb_agg(jsonb_build_object('sku', sku, 'quantity', quantity) ORDER BY sku), '[]')
              FROM (SELECT sku, sum(quantity)::bigint AS quantity FROM reserved_units
                     WHERE shipment_id = NEW.shipment_id AND state = 'held' GROUP BY sku) AS reserved));
    END IF;
    PERFORM outbox_stage('fulfilment', NEW.order_id, NEW.kind || '.' || NEW.state, told,
                         'fulfilment:' || NEW.key || ':' || NEW.state);
    RETURN NULL;
END $$
"""

FINANCE = """
CREATE FUNCTION outbox_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT outbox_wanted('finance') THEN RETURN NULL; END IF;
    IF TG_OP = 'UPDATE' AND NEW.state = 'called_off' AND OLD.state <> 'confirmed' THEN RETURN NULL; END IF;
    PERFORM outbox_stage('finance', NEW.order_id, NEW.kind || '.' || NEW.state, jsonb_build_object(
        'order_id', NEW.order_id, 'shipment_id', NEW.shipment_id, 'operation', NEW.key,
        'amount_minor', NEW.amount_minor, 'currency', NEW.currency, 'cause', NEW.cause,
        'reference', NEW.provider_ref, 'draws_on', NEW.parent), 'finance:' || NEW.key || ':' || NEW.state);
    RETURN NULL;
END $$
"""

COST = """
CREATE FUNCTION outbox_cost() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT outbox_wanted('finance') THEN RETURN NULL; END IF;
    PERFORM outbox_stage('finance', NEW.order_id, 'cost.incurred', jsonb_build_object(
        'order_id', NEW.order_id, 'shipment_id', NEW.shipment_id, 'amount_minor', NEW.cost_minor,
        'currency', NEW.currency), 'cost:' || NEW.outcome_id);
    RETURN NULL;
END $$
"""

FUNCTIONS = (
    WANTED, WAKE, STAGE, AVAILABILITY, ORDER, SHIPMENT, COMMITMENT_MADE, COMMITMENT_CHANGED, FULFILMENT, FINANCE, COST,
)  # fmt: skip

# (name, table, when it fires, function); a row is shown to a trigger only if it changed in what is told.
TRIGGERS = (
    ("outbox_inserted", "stock", "AFTER INSERT ON stock REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT",
     "outbox_availability"),
    ("outbox_updated", "stock",
     "AFTER UPDATE ON stock REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT",
     "outbox_availability"),
    ("outbox_deleted", "stock", "AFTER DELETE ON stock REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT",
     "outbox_availability"),
    ("outbox_inserted", "orders", "AFTER INSERT ON orders FOR EACH ROW", "outbox_order"),
    ("outbox_updated", "orders",
     "AFTER UPDATE ON orders FOR EACH ROW WHEN (ROW(OLD.state, OLD.needs_review, OLD.promised_at, OLD.closed_at) "
     "IS DISTINCT FROM ROW(NEW.state, NEW.needs_review, NEW.promised_at, NEW.closed_at))", "outbox_order"),
    ("outbox_inserted", "shipments", "AFTER INSERT ON shipments FOR EACH ROW", "outbox_shipment"),
    ("outbox_updated", "shipments",
     "AFTER UPDATE ON shipments FOR EACH ROW WHEN (ROW(OLD.state, OLD.tracking, OLD.late, OLD.delivered_at) "
     "IS DISTINCT FROM ROW(NEW.state, NEW.tracking, NEW.late, NEW.delivered_at))", "outbox_shipment"),
    ("outbox_updated", "reserved_units",
     "AFTER UPDATE ON reserved_units REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT",
     "outbox_commitment_changed"),
    ("outbox_deleted", "reserved_units",
     "AFTER DELETE ON reserved_units REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT",
     "outbox_commitment_changed"),
    ("outbox_inserted", "shipping_operations", "AFTER INSERT ON shipping_operations FOR EACH ROW",
     "outbox_fulfilment"),
    ("outbox_updated", "shipping_operations",
     "AFTER UPDATE ON shipping_operations FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)",
     "outbox_fulfilment"),
    ("outbox_inserted", "payment_operations",
     "AFTER INSERT ON payment_operations FOR EACH ROW WHEN (NEW.state = 'confirmed')", "outbox_payment"),
    ("outbox_updated", "payment_operations",
     "AFTER UPDATE ON payment_operations FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state AND "
     "NEW.state IN ('confirmed', 'called_off'))", "outbox_payment"),
    ("outbox_inserted", "outcomes", "AFTER INSERT ON outcomes FOR EACH ROW WHEN (NEW.cost_minor IS NOT NULL)",
     "outbox_cost"),
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "outbox_staged",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=True),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox_staged")),
    )
    op.create_table(
        "outbox",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_outbox")),
    )
    op.create_index("uq_outbox_event", "outbox", ["event_id"], unique=True)
    op.create_index("ix_outbox_key", "outbox", ["key", "position"])
    op.create_index("ix_outbox_created", "outbox", ["created_at"])
    op.create_table(
        "outbox_streams",
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("wanted_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wanted_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("topic", name=op.f("pk_outbox_streams")),
    )
    op.create_table(
        "subscribers",
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("subscriber_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("topics", postgresql.ARRAY(sa.String()), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_failure", sa.String(), nullable=True),
        sa.CheckConstraint("cardinality(topics) > 0", name=op.f("ck_subscribers_topics")),
        sa.CheckConstraint("position >= 0 AND generation >= 0", name=op.f("ck_subscribers_not_negative")),
        sa.PrimaryKeyConstraint("subscriber_id", name=op.f("pk_subscribers")),
    )
    op.create_table(
        "outbox_held",
        sa.Column("subscriber_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("try_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failure", sa.String(), nullable=False),
        sa.Column("dead_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_outbox_held_not_negative")),
        sa.ForeignKeyConstraint(
            ["subscriber_id"],
            ["subscribers.subscriber_id"],
            name=op.f("fk_outbox_held_subscriber_id_subscribers"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("subscriber_id", "key", name=op.f("pk_outbox_held")),
    )
    op.create_index(
        "ix_outbox_held_dead", "outbox_held", ["dead_at"], postgresql_where=sa.text("dead_at IS NOT NULL")
    )
    op.create_table(
        "outbox_dropped",
        sa.Column("subscriber_id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subscriber_id", "position", name=op.f("pk_outbox_dropped")),
    )
    # Rows come and go all the time: what is left of them must not be walked through at every look.
    op.execute(
        "ALTER TABLE outbox_staged SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000)"
    )
    for function in FUNCTIONS:
        op.execute(function)
    for name, _table, when, function_name in TRIGGERS:
        op.execute(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION {function_name}()")
    op.execute(
        "CREATE CONSTRAINT TRIGGER outbox_made AFTER INSERT ON reservations DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW WHEN (NEW.state = 'held') EXECUTE FUNCTION outbox_commitment_made()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER outbox_made ON reservations")
    for name, table, _when, _function in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON {table}")
    for signature in (
        "outbox_cost()", "outbox_payment()", "outbox_fulfilment()", "outbox_commitment_changed()",
        "outbox_commitment_made()", "outbox_shipment()", "outbox_order()", "outbox_availability()",
        "outbox_stage(text, text, text, jsonb, text)", "outbox_wake()", "outbox_wanted(text)",
    ):  # fmt: skip
        op.execute(f"DROP FUNCTION {signature}")
    op.drop_table("outbox_dropped")
    op.drop_table("outbox_held")
    op.drop_table("subscribers")
    op.drop_table("outbox_streams")
    op.drop_table("outbox")
    op.drop_table("outbox_staged")
