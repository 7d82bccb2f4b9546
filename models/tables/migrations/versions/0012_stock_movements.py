"""Every change of stock is written down, and a reservation is one call of the server.

Alembic does not compare triggers and functions, so these are written and changed by hand. A function that is called by
a version of ours keeps its name and its parameters for good; one that has to differ gets another name.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012_stock_movements"
down_revision = "0014_outbox"
branch_labels = None
depends_on = None

_KINDS = (
    "opening", "seed", "reserve", "release", "ship", "receipt", "count", "adjustment", "damage", "short_pick",
    "transfer_out", "transfer_in", "return", "unexplained",
)  # fmt: skip

# The row changes and the movement follows from it, not the other way round: so it holds whoever writes, also the
# version before and a person at a prompt. Whoever has something to say about a change says it in the setting
# orderwright.movement of the transaction, as JSON, just before; it counts for one statement.
EXPLAIN = """
CREATE FUNCTION stock_explain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    said jsonb := nullif(current_setting('orderwright.movement', true), '')::jsonb;
BEGIN
    IF TG_OP = 'DELETE' OR (OLD.node, OLD.sku) IS DISTINCT FROM (NEW.node, NEW.sku) THEN
        INSERT INTO stock_movements
               (node, sku, kind, on_hand, reserved, on_hand_after, reserved_after, actor, reason, source, document_id)
        VALUES (OLD.node, OLD.sku, coalesce(said ->> 'kind', 'unexplained'), -OLD.on_hand, -OLD.reserved, 0, 0,
                coalesce(said ->> 'actor', session_user), said ->> 'reason', coalesce(said ->> 'source', ''),
                said ->> 'document_id');
        IF TG_OP = 'DELETE' THEN
            RETURN NULL;
        END IF;
        OLD.on_hand := 0;
        OLD.reserved := 0;
    END IF;
    INSERT INTO stock_movements
           (node, sku, kind, on_hand, reserved, on_hand_after, reserved_after, actor, reason, source, document_id)
    VALUES (NEW.node, NEW.sku, coalesce(said ->> 'kind', 'unexplained'), NEW.on_hand - OLD.on_hand,
            NEW.reserved - OLD.reserved, NEW.on_hand, NEW.reserved, coalesce(said ->> 'actor', session_user),
            said ->> 'reason', coalesce(said ->> 'source', ''), said ->> 'document_id');
    RETURN NULL;
END $$
"""

# New rows come by the ten thousand: one statement writes down all of them.
EXPLAIN_NEW = """
CREATE FUNCTION stock_explain_new() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    said jsonb := nullif(current_setting('orderwright.movement', true), '')::jsonb;
BEGIN
    INSERT INTO stock_movements
           (node, sku, kind, on_hand, reserved, on_hand_after, reserved_after, actor, reason, source, document_id)
    SELECT node, sku, coalesce(said ->> 'kind', 'unexplained'), on_hand, reserved, on_hand, reserved,
           coalesce(said ->> 'actor', session_user), said ->> 'reason', coalesce(said ->> 'source', ''),
           said ->> 'document_id'
      FROM added WHERE (on_hand, reserved) <> (0, 0);
    PERFORM set_config('orderwright.movement', '', true);
    RETURN NULL;
END $$
"""

EXPLAINED = """
CREATE FUNCTION stock_explained() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('orderwright.movement', '', true);
    RETURN NULL;
END $$
"""

ONLY_WITH_STOCK = """
CREATE FUNCTION stock_movements_only_with_stock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a movement is written by changing stock, not by itself' USING ERRCODE = 'restrict_violation';
END $$
"""

TRIGGERS = (
    "CREATE TRIGGER explain_change AFTER UPDATE ON stock FOR EACH ROW "
    "WHEN ((OLD.node, OLD.sku, OLD.on_hand, OLD.reserved) IS DISTINCT FROM "
    "(NEW.node, NEW.sku, NEW.on_hand, NEW.reserved)) EXECUTE FUNCTION stock_explain()",
    "CREATE TRIGGER explain_end AFTER DELETE ON stock FOR EACH ROW EXECUTE FUNCTION stock_explain()",
    "CREATE TRIGGER explain_new AFTER INSERT ON stock REFERENCING NEW TABLE AS added FOR EACH STATEMENT "
    "EXECUTE FUNCTION stock_explain_new()",
    "CREATE TRIGGER explained AFTER UPDATE OR DELETE ON stock FOR EACH STATEMENT EXECUTE FUNCTION stock_explained()",
    "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON stock FOR EACH STATEMENT EXECUTE FUNCTION append_only()",
)

GUARDS = (
    "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON stock_movements "
    "FOR EACH ROW EXECUTE FUNCTION append_only()",
    "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON stock_movements "
    "FOR EACH STATEMENT EXECUTE FUNCTION append_only()",
    # Evaluated where the insert is made: 0 outside of every trigger.
    "CREATE TRIGGER only_with_stock BEFORE INSERT ON stock_movements FOR EACH ROW "
    "WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION stock_movements_only_with_stock()",
)

OPENING = """
INSERT INTO stock_movements (node, sku, kind, on_hand, reserved, on_hand_after, reserved_after, actor, reason)
SELECT node, sku, 'opening', on_hand, reserved, on_hand, reserved, 'orderwright', 'what lay there before movements'
  FROM stock WHERE (on_hand, reserved) <> (0, 0)
"""

# How much of a row may still be promised to this order. The one place for what belongs to a channel, a tier or a sale:
# it is called with the row locked, in a statement of its own, so it may look into other tables and sees what is
# committed there.
COMMITTABLE = """
CREATE FUNCTION stock_committable(level stock, for_order text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT level.on_hand - level.reserved - level.safety_stock
$$
"""

# How much of a SKU may still be promised to this order at all nodes together, whatever lies at each; null is no limit.
SHARED = """
CREATE FUNCTION stock_shared(for_sku text, for_order text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT NULL::bigint
$$
"""

# Locks what is counted over several rows, when the rows themselves are locked. Nothing is yet.
LOCK_SHARED = """
CREATE FUNCTION stock_lock_shared(wanted text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END $$
"""

# Which rows are short of what, or null. Written in place where it has to be quick: a call like this costs as much as
# half a reservation.
SHORT = """
CREATE FUNCTION stock_short(for_order text, nodes text[], skus text[], quantities bigint[])
RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT jsonb_agg(jsonb_build_object('node', want.node, 'sku', want.sku, 'requested', want.quantity,
                                            'available', greatest(coalesce(found.committable, 0), 0))
                         ORDER BY want.node, want.sku)
          FROM (SELECT node, sku, sum(quantity)::bigint AS quantity,
                       (sum(sum(quantity)) OVER (PARTITION BY sku ORDER BY node) - sum(quantity))::bigint AS before
                  FROM unnest(nodes, skus, quantities) AS want (node, sku, quantity) GROUP BY node, sku) AS want
          LEFT JOIN LATERAL (
              SELECT least(stock_committable(stock, for_order),
                           CASE WHEN want.before > 0 THEN stock_shared(want.sku, for_order) - want.before END)
                     AS committable
                FROM stock WHERE stock.node = want.node AND stock.sku = want.sku) AS found ON true
         WHERE coalesce(found.committable, 0) < want.quantity);
END $$
"""

# Reservations for several orders in one transaction, each by itself all or nothing: lines last_lines[n - 1] + 1 to
# last_lines[n] are those of keys[n]. Answers an outcome for each. Everybody takes locks in one order: orders,
# reservations, stock rows by node and SKU, reserved units, what is counted over several rows; within each kind by name.
#
# An order is locked first, and must not have ended nor go by another plan: a plan is written with the order before
# anything is reserved for it. So of two attempts that meet here, be one left over from before a reset or from a worker
# that stood still, the one wins that the order's run is at.
#
# Its plans are made once: PostgreSQL would think each array worth a plan of its own, and take as long over that as over
# the reservation; and a plan from when a table was empty would read all of it.
#
# Not alone, a request that would have to wait for somebody, or whose order has reserved or shipped before, is answered
# "again": it wants to be asked for alone.
RESERVE = """
CREATE FUNCTION stock_reserve(
    keys text[], order_ids text[], plan_ids text[], untils timestamptz[], last_lines integer[],
    shipment_ids text[], nodes text[], skus text[], quantities bigint[], promises timestamptz[],
    by_actor text, ended text[], alone boolean
) RETURNS jsonb LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    answers jsonb[] := array_fill(NULL::jsonb, ARRAY[cardinality(keys)]);
    held_orders text[];
    seen text[] := '{}';
    going integer[] := '{}';
    claimed text[];
    locked text[] := '{}';
    one record;
    place record;
    first integer;
    last integer;
    short jsonb;
    available bigint;
BEGIN
    IF alone THEN
        PERFORM FROM orders WHERE order_id = order_ids[1] FOR NO KEY UPDATE;
    ELSE
        SELECT array_agg(order_id) INTO held_orders
          FROM (SELECT order_id FROM orders WHERE order_id = ANY (order_ids)
                 ORDER BY order_id FOR NO KEY UPDATE SKIP LOCKED) AS held;
    END IF;
    FOR one IN
        SELECT n, keys[n] AS key, order_ids[n] AS order_id, plan_ids[n] AS plan_id,
               (SELECT state FROM orders WHERE order_id = order_ids[n]) AS order_state,
               (SELECT plan_id FROM orders WHERE order_id = order_ids[n]) AS goes_by,
               (SELECT state FROM reservations WHERE key = keys[n]) AS held_as,
               EXISTS (SELECT FROM reservations WHERE order_id = order_ids[n] AND key <> keys[n])
               OR EXISTS (SELECT FROM shipments WHERE order_id = order_ids[n]) AS before
          FROM generate_series(1, cardinality(keys)) AS n
    LOOP
        IF NOT alone AND (one.order_id = ANY (seen) OR one.order_state IS NOT NULL
                          AND NOT one.order_id = ANY (coalesce(held_orders, '{}'))) THEN
            answers[one.n] := '{"outcome": "again"}';
        ELSIF one.order_state = ANY (ended) THEN
            answers[one.n] := jsonb_build_object('outcome', 'ended', 'state', one.order_state);
        ELSIF one.goes_by <> one.plan_id THEN
            answers[one.n] := jsonb_build_object('outcome', 'superseded', 'plan_id', one.goes_by);
        ELSIF one.held_as = 'released' THEN
            answers[one.n] := '{"outcome": "released"}';
        ELSIF one.held_as IS NOT NULL THEN
            answers[one.n] := '{"outcome": "known"}';
        ELSIF one.before THEN
            IF alone THEN
                RETURN jsonb_build_array(stock_reserve_again(
                    keys[1], order_ids[1], plan_ids[1], untils[1], shipment_ids, nodes, skus, quantities, promises,
                    by_actor));
            END IF;
            answers[one.n] := '{"outcome": "again"}';
        ELSE
            -- Whoever comes too late writes nothing and waits for nobody.
            first := coalesce(last_lines[one.n - 1], 0) + 1;
            last := last_lines[one.n];
            IF first = last THEN
                SELECT stock_committable(stock, one.order_id) INTO available
                  FROM stock WHERE node = nodes[first] AND sku = skus[first];
                short := CASE WHEN coalesce(available, 0) < quantities[first] THEN jsonb_build_array(
                    jsonb_build_object('node', nodes[first], 'sku', skus[first], 'requested', quantities[first],
                                       'available', greatest(coalesce(available, 0), 0))) END;
            ELSE
                short := stock_short(one.order_id, nodes[first:last], skus[first:last], quantities[first:last]);
            END IF;
            IF short IS NULL THEN
                going := going || one.n;
            ELSE
                answers[one.n] := jsonb_build_object('outcome', 'short', 'shortages', short);
            END IF;
        END IF;
        seen := seen || one.order_id;
    END LOOP;

    WITH made AS (
        INSERT INTO reservations (key, order_id, plan_id, state, expires_at, created_at)
        SELECT keys[n], order_ids[n], plan_ids[n], 'held', untils[n], clock_timestamp()
          FROM unnest(going) AS n ORDER BY keys[n]
        ON CONFLICT (key) DO NOTHING RETURNING key)
    SELECT array_agg(key) INTO claimed FROM made;
    FOR place IN
        SELECT DISTINCT nodes[line] AS node, skus[line] AS sku
          FROM unnest(going) AS n, generate_series(coalesce(last_lines[n - 1], 0) + 1, last_lines[n]) AS line
         WHERE keys[n] = ANY (claimed)
         ORDER BY 1, 2
    LOOP
        PERFORM FROM stock WHERE node = place.node AND sku = place.sku FOR NO KEY UPDATE;
        locked := locked || place.sku;
    END LOOP;
    PERFORM stock_lock_shared(locked);
    FOR one IN SELECT n, keys[n] AS key, order_ids[n] AS order_id FROM unnest(going) AS n LOOP
        IF NOT one.key = ANY (coalesce(claimed, '{}')) THEN
            -- Somebody else has just come with the same key.
            IF alone THEN
                RETURN stock_reserve(
                    keys, order_ids, plan_ids, untils, last_lines, shipment_ids, nodes, skus, quantities, promises,
                    by_actor, ended, alone);
            END IF;
            answers[one.n] := '{"outcome": "again"}';
            CONTINUE;
        END IF;
        first := coalesce(last_lines[one.n - 1], 0) + 1;
        last := last_lines[one.n];
        PERFORM set_config('orderwright.movement', jsonb_build_object(
            'kind', 'reserve', 'actor', by_actor, 'source', one.key)::text, true);
        IF first = last THEN
            UPDATE stock SET reserved = reserved + quantities[first]
             WHERE node = nodes[first] AND sku = skus[first]
               AND stock_committable(stock, one.order_id) >= quantities[first];
            short := CASE WHEN NOT FOUND THEN
                stock_short(one.order_id, nodes[first:last], skus[first:last], quantities[first:last]) END;
        ELSE
            short := stock_short(one.order_id, nodes[first:last], skus[first:last], quantities[first:last]);
            IF short IS NULL THEN
                UPDATE stock SET reserved = stock.reserved + want.quantity
                  FROM (SELECT node, sku, sum(quantity)::bigint AS quantity
                          FROM unnest(nodes[first:last], skus[first:last], quantities[first:last])
                            AS want (node, sku, quantity) GROUP BY node, sku) AS want
                 WHERE stock.node = want.node AND stock.sku = want.sku;
            END IF;
        END IF;
        IF short IS NULL THEN
            answers[one.n] := '{"outcome": "reserved"}';
            -- At once and not with the others': what the next one may have is counted by these.
            INSERT INTO reserved_units (key, shipment_id, node, sku, quantity, state, promised_at)
            SELECT one.key, shipment_ids[line], nodes[line], skus[line], quantities[line], 'held', promises[line]
              FROM generate_series(first, last) AS line;
        ELSE
            -- The key stays free: the same reservation may come again when there is stock.
            DELETE FROM reservations WHERE key = one.key;
            answers[one.n] := jsonb_build_object('outcome', 'short', 'shortages', short);
        END IF;
    END LOOP;
    RETURN to_jsonb(answers);
END $$
"""

# An order that has reserved before, e.g. for a plan that was given up or by a run that was reset. It holds its units
# once: what it holds under other keys is freed with the new claim. Shipments that have begun are the exception: they
# keep what was reserved for them, and nothing more is reserved for them.
RESERVE_AGAIN = """
CREATE FUNCTION stock_reserve_again(
    for_key text, for_order text, for_plan text, until timestamptz,
    shipment_ids text[], nodes text[], skus text[], quantities bigint[], promises timestamptz[], by_actor text
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    under_way text[] := ARRAY(
        SELECT shipment_id FROM shipments WHERE order_id = for_order AND state <> 'cancelled');
    held_as text;
    short jsonb;
    freed_keys text[];
    freed_nodes text[];
    freed_skus text[];
    freed_quantities bigint[];
BEGIN
    LOOP
        INSERT INTO reservations (key, order_id, plan_id, state, expires_at, created_at)
        VALUES (for_key, for_order, for_plan, 'held', until, clock_timestamp()) ON CONFLICT (key) DO NOTHING;
        EXIT WHEN FOUND;
        -- Somebody else has just come with the same key; it may be gone again.
        SELECT state INTO held_as FROM reservations WHERE key = for_key;
        IF FOUND THEN
            RETURN jsonb_build_object('outcome', CASE held_as WHEN 'released' THEN 'released' ELSE 'known' END);
        END IF;
    END LOOP;
    SELECT array_agg(want.shipment_id), array_agg(want.node), array_agg(want.sku), array_agg(want.quantity),
           array_agg(want.promised_at)
      INTO shipment_ids, nodes, skus, quantities, promises
      FROM unnest(shipment_ids, nodes, skus, quantities, promises)
        AS want (shipment_id, node, sku, quantity, promised_at)
     WHERE want.shipment_id <> ALL (under_way);

    PERFORM FROM stock JOIN (
            SELECT node, sku FROM unnest(nodes, skus) AS want (node, sku)
             UNION
            SELECT units.node, units.sku FROM reserved_units AS units JOIN reservations USING (key)
             WHERE order_id = for_order AND key <> for_key AND units.state = 'held'
               AND units.shipment_id <> ALL (under_way)) AS touched USING (node, sku)
      ORDER BY stock.node, stock.sku FOR NO KEY UPDATE OF stock;
    SELECT array_agg(held.key), array_agg(held.node), array_agg(held.sku), array_agg(held.quantity)
      INTO freed_keys, freed_nodes, freed_skus, freed_quantities
      FROM (SELECT units.key, units.node, units.sku, units.quantity
              FROM reserved_units AS units JOIN reservations USING (key)
             WHERE order_id = for_order AND key <> for_key AND units.state = 'held'
               AND units.shipment_id <> ALL (under_way)
             ORDER BY units.key, units.node, units.sku FOR UPDATE OF units) AS held;
    PERFORM stock_lock_shared(skus || freed_skus);

    -- What it holds is freed first, so that it does not count against the order; if that does not help, it never was.
    BEGIN
        IF freed_keys IS NOT NULL THEN
            -- As though never reserved: a run that is reset once more may come to one of these keys again.
            DELETE FROM reserved_units AS units
             WHERE units.key = ANY (freed_keys) AND units.state = 'held' AND units.shipment_id <> ALL (under_way);
            DELETE FROM reservations
             WHERE key = ANY (freed_keys) AND NOT EXISTS (SELECT FROM reserved_units WHERE key = reservations.key);
            PERFORM set_config('orderwright.movement', jsonb_build_object(
                'kind', 'release', 'actor', by_actor, 'source', for_key,
                'reason', 'the order reserves anew; it held these under another key')::text, true);
            UPDATE stock SET reserved = stock.reserved - freed.quantity
              FROM (SELECT node, sku, sum(quantity)::bigint AS quantity
                      FROM unnest(freed_nodes, freed_skus, freed_quantities) AS freed (node, sku, quantity)
                     GROUP BY node, sku) AS freed
             WHERE stock.node = freed.node AND stock.sku = freed.sku;
        END IF;
        -- What the order held itself it may have again, whatever is kept back from others.
        SELECT jsonb_agg(missing.row ORDER BY missing.row ->> 'node', missing.row ->> 'sku')
          INTO short
          FROM jsonb_array_elements(stock_short(for_order, nodes, skus, quantities)) AS missing (row)
         WHERE (missing.row ->> 'requested')::bigint > coalesce((
                   SELECT sum(quantity) FROM unnest(freed_nodes, freed_skus, freed_quantities)
                       AS freed (node, sku, quantity)
                    WHERE freed.node = missing.row ->> 'node' AND freed.sku = missing.row ->> 'sku'), 0);
        IF short IS NOT NULL THEN
            RAISE EXCEPTION 'short' USING ERRCODE = 'OW001';
        END IF;
    EXCEPTION WHEN SQLSTATE 'OW001' THEN
        DELETE FROM reservations WHERE key = for_key;
        RETURN jsonb_build_object('outcome', 'short', 'shortages', short);
    END;
    PERFORM set_config('orderwright.movement', jsonb_build_object(
        'kind', 'reserve', 'actor', by_actor, 'source', for_key)::text, true);
    UPDATE stock SET reserved = stock.reserved + want.quantity
      FROM (SELECT node, sku, sum(quantity)::bigint AS quantity
              FROM unnest(nodes, skus, quantities) AS want (node, sku, quantity) GROUP BY node, sku) AS want
     WHERE stock.node = want.node AND stock.sku = want.sku;
    INSERT INTO reserved_units (key, shipment_id, node, sku, quantity, state, promised_at)
    SELECT for_key, want.shipment_id, want.node, want.sku, want.quantity, 'held', want.promised_at
      FROM unnest(shipment_ids, nodes, skus, quantities, promises)
        AS want (shipment_id, node, sku, quantity, promised_at);
    RETURN '{"outcome": "reserved"}';
END $$
"""

# Releasing the whole of a reservation that never came leaves a mark, so that it is refused when it comes late.
RELEASE = """
CREATE FUNCTION stock_release(for_key text, for_order text, for_shipment text, by_actor text, why text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    freed bigint;
BEGIN
    IF for_shipment IS NULL THEN
        INSERT INTO reservations (key, order_id, state, created_at)
        VALUES (for_key, for_order, 'released', clock_timestamp())
        ON CONFLICT (key) DO UPDATE SET state = 'released';
    END IF;
    PERFORM FROM stock JOIN (
            SELECT DISTINCT node, sku FROM reserved_units
             WHERE key = for_key AND state = 'held' AND (for_shipment IS NULL OR shipment_id = for_shipment)
            ) AS touched USING (node, sku)
      ORDER BY stock.node, stock.sku FOR NO KEY UPDATE OF stock;
    PERFORM set_config('orderwright.movement', jsonb_build_object(
        'kind', 'release', 'actor', by_actor, 'source', for_key, 'reason', why)::text, true);
    WITH gone AS (
        UPDATE reserved_units SET state = 'released'
         WHERE key = for_key AND state = 'held' AND (for_shipment IS NULL OR shipment_id = for_shipment)
        RETURNING node, sku, quantity
    ), changed AS (
        UPDATE stock SET reserved = stock.reserved - gone.quantity
          FROM (SELECT node, sku, sum(quantity)::bigint AS quantity FROM gone GROUP BY node, sku) AS gone
         WHERE stock.node = gone.node AND stock.sku = gone.sku
        RETURNING gone.quantity
    )
    SELECT coalesce(sum(quantity), 0) INTO freed FROM changed;
    RETURN freed;
END $$
"""

# A shipment leaves once. Of several reservations for it the goods were of one: where it left from, rather held than
# freed, rather the last. Units of it that had been freed are gone all the same; the shelf then holds no less than what
# others have reserved of it, until somebody counts.
CONSUME = """
CREATE FUNCTION stock_consume(for_shipment text, by_actor text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    left_by text;
BEGIN
    PERFORM FROM stock JOIN (
            SELECT DISTINCT node, sku FROM reserved_units WHERE shipment_id = for_shipment
            ) AS touched USING (node, sku)
      ORDER BY stock.node, stock.sku FOR NO KEY UPDATE OF stock;
    PERFORM FROM reserved_units WHERE shipment_id = for_shipment ORDER BY key, node, sku FOR UPDATE;
    SELECT units.key INTO left_by
      FROM reserved_units AS units
      JOIN reservations USING (key)
      LEFT JOIN shipments ON shipments.shipment_id = units.shipment_id
     WHERE units.shipment_id = for_shipment
       AND NOT EXISTS (SELECT FROM reserved_units WHERE shipment_id = for_shipment AND state = 'consumed')
     ORDER BY (units.node = shipments.node) IS TRUE DESC, units.state = 'held' DESC, reservations.created_at DESC
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM set_config('orderwright.movement', jsonb_build_object(
        'kind', 'release', 'actor', by_actor, 'source', for_shipment,
        'reason', 'the shipment left by another reservation')::text, true);
    UPDATE stock SET reserved = stock.reserved - units.quantity
      FROM (SELECT node, sku, sum(quantity)::bigint AS quantity FROM reserved_units
             WHERE shipment_id = for_shipment AND key <> left_by AND state = 'held' GROUP BY node, sku) AS units
     WHERE stock.node = units.node AND stock.sku = units.sku;
    PERFORM set_config('orderwright.movement', jsonb_build_object(
        'kind', 'ship', 'actor', by_actor, 'source', for_shipment)::text, true);
    UPDATE stock SET reserved = stock.reserved - units.quantity, on_hand = stock.on_hand - units.quantity
      FROM reserved_units AS units
     WHERE shipment_id = for_shipment AND key = left_by AND state = 'held'
       AND stock.node = units.node AND stock.sku = units.sku;
    PERFORM set_config('orderwright.movement', jsonb_build_object(
        'kind', 'ship', 'actor', by_actor, 'source', for_shipment,
        'reason', 'it left though its units had been freed')::text, true);
    UPDATE stock SET on_hand = greatest(stock.on_hand - units.quantity, stock.reserved)
      FROM reserved_units AS units
     WHERE shipment_id = for_shipment AND key = left_by AND state = 'released'
       AND stock.node = units.node AND stock.sku = units.sku;
    UPDATE reserved_units SET state = CASE key WHEN left_by THEN 'consumed' ELSE 'released' END
     WHERE shipment_id = for_shipment;
    RETURN true;
END $$
"""

FUNCTIONS = (
    EXPLAIN,
    EXPLAIN_NEW,
    EXPLAINED,
    ONLY_WITH_STOCK,
    COMMITTABLE,
    SHARED,
    LOCK_SHARED,
    SHORT,
    RESERVE_AGAIN,
    RESERVE,
    RELEASE,
    CONSUME,
)


def upgrade() -> None:
    op.add_column(
        "stock", sa.Column("safety_stock", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
    op.create_check_constraint(op.f("ck_stock_safety_stock"), "stock", "safety_stock >= 0")
    op.add_column("reserved_units", sa.Column("promised_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "stock_movements",
        sa.Column("movement_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("on_hand", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("on_hand_after", sa.BigInteger(), nullable=False),
        sa.Column("reserved_after", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=False, server_default=""),
        sa.Column("document_id", sa.String(), nullable=True),
        sa.Column(
            "at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        sa.CheckConstraint(
            f"kind IN ({', '.join(repr(kind) for kind in _KINDS)})", name=op.f("ck_stock_movements_kind")
        ),
        sa.PrimaryKeyConstraint("movement_id", name="pk_stock_movements"),
    )
    op.create_index("ix_stock_movements_row", "stock_movements", ["sku", "node", "movement_id"])
    op.create_index(
        "uq_stock_movements_document",
        "stock_movements",
        ["document_id", "kind", "node", "sku", "source"],
        unique=True,
        postgresql_where="document_id IS NOT NULL",
    )
    for function in FUNCTIONS:
        op.execute(function)
    # From here on nobody changes stock without a movement until this is committed: the triggers lock the table.
    for trigger in TRIGGERS:
        op.execute(trigger)
    op.execute(OPENING)
    for guard in GUARDS:
        op.execute(guard)


def downgrade() -> None:
    for trigger in ("explain_change", "explain_end", "explain_new", "explained", "append_only_whole"):
        op.execute(f"DROP TRIGGER {trigger} ON stock")
    for function in (
        "stock_consume",
        "stock_release",
        "stock_reserve",
        "stock_reserve_again",
        "stock_short",
        "stock_lock_shared",
        "stock_shared",
        "stock_committable",
        "stock_explained",
        "stock_explain_new",
        "stock_explain",
    ):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("stock_movements")
    op.execute("DROP FUNCTION stock_movements_only_with_stock")
    op.drop_column("reserved_units", "promised_at")
    op.drop_constraint(op.f("ck_stock_safety_stock"), "stock")
    op.drop_column("stock", "safety_stock")
