"""What of the stock belongs to whom: shares of channels, protected units, and caps of sales."""

from importlib import import_module

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018_channels"
down_revision = "0016"
branch_labels = None
depends_on = None

# A rule in force, and whether an order of a channel and a tier belongs to its group.
IN_FORCE = """
CREATE FUNCTION allocation_in_force(rule stock_allocations, at timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (rule.valid_from IS NULL OR rule.valid_from <= at) AND (rule.valid_until IS NULL OR at < rule.valid_until)
$$
"""
OF_GROUP = """
CREATE FUNCTION allocation_of_group(rule stock_allocations, channel text, tier text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT (rule.channels = '{}' OR coalesce(channel = ANY (rule.channels), false))
       AND (rule.tiers = '{}' OR coalesce(tier = ANY (rule.tiers), false))
$$
"""
# Where a rule counts what it is about: at one node, or over all of them ('').
COUNTED_AT = """
CREATE FUNCTION allocation_counted_at(rule stock_allocations, at_node text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN rule.node IS NULL THEN '' ELSE at_node END
$$
"""

# What rules leave of a row to an order of a channel and a tier, or to a stranger (both null): ``free`` of what lies
# there when protected units are left alone, at ``most`` so many more by limits and caps, and of the SKU at all nodes
# together ``shared``; null is no rule. Each may be below zero. A standing rule counts what its group holds now, a cap
# what its group was promised in its time.
ALLOWED = """
CREATE FUNCTION stock_allowed(
    level stock, for_channel text, for_tier text, OUT free bigint, OUT most bigint, OUT shared bigint
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    rule stock_allocations;
    counted bigint;
    lies bigint := level.on_hand - level.safety_stock;
    kept bigint;
    lies_in_all bigint;
    free_in_all bigint;
    kept_of_all bigint;
    amount bigint;
BEGIN
    FOR rule IN
        SELECT * FROM stock_allocations AS entry
         WHERE (entry.sku IS NULL OR entry.sku = level.sku)
           AND (entry.node IS NULL OR entry.node IN ('*', level.node))
           AND allocation_in_force(entry, now())
           AND (entry.kind = 'protect') <> allocation_of_group(entry, for_channel, for_tier)
    LOOP
        IF rule.node IS NULL AND lies_in_all IS NULL THEN
            SELECT coalesce(sum(greatest(on_hand - safety_stock, 0)), 0),
                   coalesce(sum(greatest(on_hand - reserved - safety_stock, 0)), 0)
              INTO lies_in_all, free_in_all
              FROM stock JOIN nodes ON node_id = node WHERE sku = level.sku AND active;
        END IF;
        counted := coalesce((SELECT used FROM stock_allocation_use AS use
                              WHERE use.rule_id = rule.rule_id AND use.sku = level.sku
                                AND use.node = allocation_counted_at(rule, level.node)), 0);
        -- Of a share, what is protected is rounded up and what is allowed is rounded down.
        amount := coalesce(rule.units, div(
            greatest(CASE WHEN rule.node IS NULL THEN lies_in_all ELSE lies END, 0) * rule.percent
            + CASE rule.kind WHEN 'protect' THEN 99 ELSE 0 END, 100)::bigint);
        IF rule.kind = 'protect' AND rule.node IS NULL THEN
            kept_of_all := coalesce(kept_of_all, 0) + greatest(amount - counted, 0);
        ELSIF rule.kind = 'protect' THEN
            kept := coalesce(kept, 0) + greatest(amount - counted, 0);
        ELSIF rule.node IS NULL THEN
            shared := least(shared, amount - counted);
        ELSE
            most := least(most, amount - counted);
        END IF;
    END LOOP;
    free := lies - level.reserved - kept;
    shared := least(shared, free_in_all - kept_of_all);
END $$
"""

# What a stranger, or somebody of a channel and a tier, may still be promised of a row.
OPEN_TO = """
CREATE FUNCTION stock_open_to(level stock, for_channel text, for_tier text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT greatest(least(level.on_hand - level.reserved - level.safety_stock, free, most, shared), 0)
      FROM stock_allowed(level, for_channel, for_tier)
$$
"""

# The same for an order. Its channel stands in its id; its tier only with the order.
COMMITTABLE = """
CREATE OR REPLACE FUNCTION stock_committable(level stock, for_order text) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    unreserved bigint := level.on_hand - level.reserved - level.safety_stock;
    allowed record;
BEGIN
    IF NOT EXISTS (SELECT FROM stock_allocations WHERE sku IS NULL OR sku = level.sku) THEN
        RETURN unreserved;
    END IF;
    SELECT * INTO allowed FROM stock_allowed(
        level, split_part(for_order, ':', 1), (SELECT customer_tier FROM orders WHERE order_id = for_order));
    RETURN least(unreserved, allowed.free, allowed.most, allowed.shared);
END $$
"""
COMMITTABLE_BEFORE = """
CREATE OR REPLACE FUNCTION stock_committable(level stock, for_order text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT level.on_hand - level.reserved - level.safety_stock
$$
"""

SHARED = """
CREATE OR REPLACE FUNCTION stock_shared(for_sku text, for_order text) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM stock_allocations WHERE node IS NULL AND (sku IS NULL OR sku = for_sku)) THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT min(allowed.shared)
              FROM stock, stock_allowed(stock, split_part(for_order, ':', 1), (
                  SELECT customer_tier FROM orders WHERE order_id = for_order)) AS allowed
             WHERE stock.sku = for_sku);
END $$
"""
SHARED_BEFORE = """
CREATE OR REPLACE FUNCTION stock_shared(for_sku text, for_order text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT NULL::bigint
$$
"""

# Two orders at two nodes do not meet at a stock row, but at what is counted over all nodes.
LOCK_SHARED = """
CREATE OR REPLACE FUNCTION stock_lock_shared(wanted text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM stock_allocations WHERE node IS NULL AND (sku IS NULL OR sku = ANY (wanted))) THEN
        RETURN;
    END IF;
    INSERT INTO stock_allocation_use (rule_id, sku, node, used)
    SELECT rule.rule_id, item.sku, '', 0
      FROM stock_allocations AS rule
      JOIN (SELECT DISTINCT sku FROM unnest(wanted) AS sku) AS item ON rule.sku IS NULL OR rule.sku = item.sku
     WHERE rule.node IS NULL
     ORDER BY 2, 1
    ON CONFLICT (rule_id, sku, node) DO NOTHING;
    PERFORM FROM stock_allocation_use WHERE node = '' AND sku = ANY (wanted)
      ORDER BY sku, rule_id FOR NO KEY UPDATE;
END $$
"""
LOCK_SHARED_BEFORE = """
CREATE OR REPLACE FUNCTION stock_lock_shared(wanted text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END $$
"""

# What each rule counts, made of ``units``: rows of reserved_units with a sign. What is held counts for a standing rule;
# for a cap, what was promised in its time and not given back.
_COUNTS = """SELECT rule.rule_id, unit.sku, allocation_counted_at(rule, unit.node) AS node,
           sum(unit.sign * unit.quantity)::bigint AS used
      FROM {units} AS unit
      JOIN reservations AS holding USING (key)
      LEFT JOIN orders USING (order_id)
      JOIN stock_allocations AS rule
        ON (rule.sku IS NULL OR rule.sku = unit.sku) AND (rule.node IS NULL OR rule.node IN ('*', unit.node))
       AND allocation_of_group(rule, split_part(holding.order_id, ':', 1), orders.customer_tier)
       AND {which}
     GROUP BY 1, 2, 3
    HAVING sum(unit.sign * unit.quantity) <> 0
     ORDER BY 2, 1, 3
"""

_STANDING = "rule.kind <> 'cap' AND unit.state = 'held'"
_CAP = "rule.kind = 'cap' AND unit.state <> 'released' AND allocation_in_force(rule, holding.created_at)"

FOLLOW = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM stock_allocations) THEN
        RETURN NULL;
    END IF;
    INSERT INTO stock_allocation_use AS counter (rule_id, sku, node, used)
    {counts}
    ON CONFLICT (rule_id, sku, node) DO UPDATE SET used = counter.used + excluded.used;
    RETURN NULL;
END $$
"""
_ADDED = "SELECT 1 AS sign, added.* FROM added"
_REMOVED = "SELECT -1 AS sign, removed.* FROM removed"
FOLLOWERS = {
    "INSERT": ("stock_allocation_added", f"({_ADDED})", "REFERENCING NEW TABLE AS added"),
    "UPDATE": (
        "stock_allocation_changed",
        f"({_ADDED} UNION ALL {_REMOVED})",
        "REFERENCING NEW TABLE AS added OLD TABLE AS removed",
    ),
    "DELETE": ("stock_allocation_removed", f"({_REMOVED})", "REFERENCING OLD TABLE AS removed"),
}

# What the counters come to by the units themselves: for a rule that is new, and for whoever checks the books.
_ALL = "(SELECT 1 AS sign, reserved_units.* FROM reserved_units)"
COUNTED = f"""
CREATE FUNCTION stock_allocation_counted() RETURNS TABLE (rule_id text, sku text, node text, used bigint)
LANGUAGE sql STABLE AS $$
    ({_COUNTS.format(units=_ALL, which=_STANDING)}) UNION ALL ({_COUNTS.format(units=_ALL, which=_CAP)})
$$
"""

# What the events of availability say of a row: what is open to a stranger, and to each channel that a rule names.
BY_CHANNEL = """
CREATE FUNCTION stock_by_channel(level stock) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT jsonb_object_agg(channel, stock_open_to(level, channel, NULL))
          FROM (SELECT DISTINCT unnest(channels) AS channel FROM stock_allocations AS rule
                 WHERE (rule.sku IS NULL OR rule.sku = level.sku)
                   AND (rule.node IS NULL OR rule.node IN ('*', level.node))
                   AND allocation_in_force(rule, now())) AS named);
END $$
"""
TOLD = """
CREATE FUNCTION stock_told(level stock) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    told jsonb := jsonb_build_object(
        'node', level.node, 'sku', level.sku, 'on_hand', level.on_hand, 'reserved', level.reserved,
        'safety_stock', level.safety_stock,
        'available', greatest(level.on_hand - level.reserved - level.safety_stock, 0));
    by_channel jsonb;
BEGIN
    IF NOT EXISTS (SELECT FROM stock_allocations WHERE sku IS NULL OR sku = level.sku) THEN
        RETURN told;
    END IF;
    told := told || jsonb_build_object('available', stock_open_to(level, NULL, NULL));
    by_channel := stock_by_channel(level);
    RETURN CASE WHEN by_channel IS NULL THEN told ELSE told || jsonb_build_object('channels', by_channel) END;
END $$
"""

# Tell what is available of SKUs now, or of all of them (null): a rule changed it, not the row.
TELL = """
CREATE FUNCTION stock_tell(skus text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT outbox_wanted('availability') THEN RETURN; END IF;
    INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
    SELECT pg_current_xact_id()::text::bigint, 'availability', stock.node || '/' || stock.sku, 'availability.changed',
           stock_told(stock), clock_timestamp()
      FROM stock WHERE skus IS NULL OR sku = ANY (skus)
     ORDER BY stock.sku, stock.node;
    IF FOUND THEN PERFORM outbox_wake(); END IF;
END $$
"""
# A counter of all nodes changes what is open at each of them.
COUNTER_TOLD = """
CREATE FUNCTION stock_allocation_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM counted) THEN
        PERFORM stock_tell(ARRAY(SELECT DISTINCT sku FROM counted));
    END IF;
    RETURN NULL;
END $$
"""

# As before, of rows that no rule is about. What a rule of all nodes leaves changes at each of them: all are told then,
# one transaction after the other, so that what is told last is so.
AVAILABILITY = """
CREATE OR REPLACE FUNCTION outbox_availability() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed text[];
    everywhere text[] := '{}';
BEGIN
    IF NOT outbox_wanted('availability') THEN RETURN NULL; END IF;
    IF EXISTS (SELECT FROM stock_allocations WHERE node IS NULL) THEN
        IF TG_OP = 'UPDATE' THEN
            changed := ARRAY(SELECT DISTINCT n.sku FROM new_rows n JOIN old_rows o USING (node, sku)
                              WHERE (n.on_hand, n.reserved, n.safety_stock) <> (o.on_hand, o.reserved, o.safety_stock));
        ELSIF TG_OP = 'INSERT' THEN
            changed := ARRAY(SELECT DISTINCT sku FROM new_rows);
        ELSE
            changed := ARRAY(SELECT DISTINCT sku FROM old_rows);
        END IF;
        everywhere := ARRAY(
            SELECT item FROM unnest(changed) AS item
             WHERE EXISTS (SELECT FROM stock_allocations AS rule
                            WHERE rule.node IS NULL AND (rule.sku IS NULL OR rule.sku = item)));
        PERFORM stock_lock_shared(everywhere);
        PERFORM stock_tell(everywhere);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
        SELECT pg_current_xact_id()::text::bigint, 'availability', n.node || '/' || n.sku, 'availability.changed',
               stock_told(n), clock_timestamp()
          FROM new_rows n JOIN old_rows o USING (node, sku)
         WHERE n.sku <> ALL (everywhere)
           AND (greatest(n.on_hand - n.reserved - n.safety_stock, 0)
                <> greatest(o.on_hand - o.reserved - o.safety_stock, 0)
             OR n.on_hand - n.safety_stock <> o.on_hand - o.safety_stock
                AND EXISTS (SELECT FROM stock_allocations AS rule WHERE rule.sku IS NULL OR rule.sku = n.sku));
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
        SELECT pg_current_xact_id()::text::bigint, 'availability', n.node || '/' || n.sku, 'availability.changed',
               stock_told(n), clock_timestamp()
          FROM new_rows n WHERE n.sku <> ALL (everywhere);
    ELSE
        INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
        SELECT pg_current_xact_id()::text::bigint, 'availability', o.node || '/' || o.sku, 'availability.changed',
               jsonb_build_object('node', o.node, 'sku', o.sku, 'on_hand', 0, 'reserved', 0, 'safety_stock', 0,
                                  'available', 0),
               clock_timestamp()
          FROM old_rows o;
    END IF;
    IF FOUND THEN PERFORM outbox_wake(); END IF;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.add_column("orders", sa.Column("customer_tier", sa.String(), nullable=True))
    op.create_table(
        "allocation_policies",
        sa.Column("version", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_allocation_policies"),
        sa.UniqueConstraint("document_id", name="uq_allocation_policies_document_id"),
    )
    op.create_table(
        "stock_allocations",
        sa.Column("rule_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=True),
        sa.Column("node", sa.String(), nullable=True),
        sa.Column("channels", postgresql.ARRAY(sa.String()), nullable=False),
        sa.Column("tiers", postgresql.ARRAY(sa.String()), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=True),
        sa.Column("percent", sa.Integer(), nullable=True),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("told_in_force", sa.Boolean(), nullable=True),
        sa.CheckConstraint("kind IN ('protect', 'limit', 'cap')", name=op.f("ck_stock_allocations_kind")),
        sa.CheckConstraint(
            "(units IS NULL) <> (percent IS NULL) AND coalesce(units, 0) >= 0"
            " AND coalesce(percent, 0) BETWEEN 0 AND 100 AND (kind <> 'cap' OR units IS NOT NULL)",
            name=op.f("ck_stock_allocations_amount"),
        ),
        sa.CheckConstraint("valid_from < valid_until", name=op.f("ck_stock_allocations_valid")),
        sa.PrimaryKeyConstraint("rule_id", name="pk_stock_allocations"),
    )
    op.create_index("ix_stock_allocations_sku", "stock_allocations", ["sku"])
    op.create_table(
        "stock_allocation_use",
        sa.Column("rule_id", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rule_id"],
            ["stock_allocations.rule_id"],
            name="fk_stock_allocation_use_rule_id_stock_allocations",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("rule_id", "sku", "node", name="pk_stock_allocation_use"),
    )
    op.create_index("ix_stock_allocation_use_sku", "stock_allocation_use", ["sku", "node"])
    for function in (
        IN_FORCE,
        OF_GROUP,
        COUNTED_AT,
        ALLOWED,
        OPEN_TO,
        COMMITTABLE,
        SHARED,
        LOCK_SHARED,
        COUNTED,
        BY_CHANNEL,
        TOLD,
        TELL,
        COUNTER_TOLD,
        AVAILABILITY,
    ):
        op.execute(function)
    for change, (name, units, tables) in FOLLOWERS.items():
        op.execute(
            FOLLOW.format(name=name, counts=_COUNTS.format(units=units, which=f"({_STANDING} OR {_CAP})"))
        )
        op.execute(
            f"CREATE TRIGGER count_{change.lower()} AFTER {change} ON reserved_units {tables} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
        )
    for change in ("INSERT", "UPDATE"):
        op.execute(
            f"CREATE TRIGGER told_{change.lower()} AFTER {change} ON stock_allocation_use "
            "REFERENCING NEW TABLE AS counted FOR EACH STATEMENT EXECUTE FUNCTION stock_allocation_told()"
        )


def downgrade() -> None:
    for change, (name, _, _) in FOLLOWERS.items():
        op.execute(f"DROP TRIGGER count_{change.lower()} ON reserved_units")
        op.execute(f"DROP FUNCTION {name}()")
    op.execute(LOCK_SHARED_BEFORE)
    op.execute(SHARED_BEFORE)
    op.execute(COMMITTABLE_BEFORE)
    # As its own migration wrote it.
    op.execute(import_module("models.tables.migrations.versions.0014b_outbox_books").AVAILABILITY)
    op.drop_table("stock_allocation_use")
    for function in (
        "stock_allocation_told()",
        "stock_tell(text[])",
        "stock_told(stock)",
        "stock_by_channel(stock)",
        "stock_open_to(stock, text, text)",
        "stock_allowed(stock, text, text)",
        "stock_allocation_counted()",
        "allocation_counted_at(stock_allocations, text)",
        "allocation_of_group(stock_allocations, text, text)",
        "allocation_in_force(stock_allocations, timestamptz)",
    ):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("stock_allocations")
    op.drop_table("allocation_policies")
    op.drop_column("orders", "customer_tier")
