"""Lots with expiry: which units of a stock row came in which lot, who is promised units of which, and until when.

``stock`` stays the truth of how much there is. A row of it that has lots (``stock.lots``) is divided into them, whoever
changes it: reserved units are given lots by triggers, and what a change of ``on_hand`` does not say of lots is settled
at the end of the transaction. Units whose lot nobody knows are in the lot ''. Lots are protected by the lock of their
stock row.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019_lots"
down_revision = "0018_channels"
branch_labels = None
depends_on = None

_KINDS = (
    "opening", "seed", "reserve", "release", "ship", "receipt", "count", "adjustment", "damage", "short_pick",
    "transfer_out", "transfer_in", "return", "unexplained",
)  # fmt: skip

_DIFFERENCES = (
    "ours_only", "theirs_only", "amount_differs", "ledger_differs", "twice_theirs", "held_after_end",
    "held_only_ours", "answer_lost", "label_of_cancelled", "label_unknown", "label_answer_lost", "label_cost_differs",
    "left_without_label", "held_for_ended", "held_for_unknown", "open_without_reservation", "paid_without_stock",
    "reserved_differs",
)  # fmt: skip
_DIFFERENCE = "ck_reconciliation_differences_kind"

# Which lots an order may get: good on the day it is promised, and so many days longer if it asks for that. A unit whose
# date nobody knows is for orders that do not ask. Without a promise, as when it is planned, it is today that counts.
WANTED = """
CREATE FUNCTION stock_lot_wanted(for_order text, OUT good_on date, OUT asks boolean) LANGUAGE plpgsql STABLE AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    SELECT greatest(today, (promised_at AT TIME ZONE 'UTC')::date) + coalesce(min_shelf_life_days, 0),
           min_shelf_life_days IS NOT NULL
      INTO good_on, asks FROM orders WHERE order_id = for_order;
    good_on := coalesce(good_on, today);
    asks := coalesce(asks, false);
END $$
"""

# How many units of a row an order may still get by its lots; null where there are none. What is reserved on the row and
# has no lot yet is about to get one, nobody knows which.
LIMIT = """
CREATE FUNCTION stock_lot_limit(level stock, for_order text) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    wanted record;
BEGIN
    IF NOT level.lots THEN
        RETURN NULL;
    END IF;
    wanted := stock_lot_wanted(for_order);
    RETURN (
        SELECT greatest(coalesce(sum(on_hand - reserved) FILTER (
                   WHERE expires_on >= wanted.good_on OR (expires_on IS NULL AND NOT wanted.asks)), 0)
               - greatest(level.reserved - coalesce(sum(reserved), 0), 0), 0)::bigint
          FROM stock_lots WHERE node = level.node AND sku = level.sku AND on_hand > 0);
END $$
"""

# What differs in functions of before: (function, what stood there, what does now); the rest of each stays. A row
# without lots costs a look at a column.
_REPLACED = (
    (
        "stock_committable",
        "unreserved bigint := level.on_hand - level.reserved - level.safety_stock;",
        "unreserved bigint := least(level.on_hand - level.reserved - level.safety_stock,\n"
        "                               CASE WHEN level.lots THEN stock_lot_limit(level, for_order) END);",
    ),
    (
        "stock_open_to",
        "least(level.on_hand - level.reserved - level.safety_stock, free, most, shared), 0)",
        "least(level.on_hand - level.reserved - level.safety_stock, free, most, shared,\n"
        "                          CASE WHEN level.lots THEN stock_lot_limit(level, NULL) END), 0)",
    ),
    (
        "stock_told",
        "'available', greatest(level.on_hand - level.reserved - level.safety_stock, 0));",
        "'available', greatest(least(level.on_hand - level.reserved - level.safety_stock,\n"
        "                                    CASE WHEN level.lots THEN stock_lot_limit(level, NULL) END), 0));",
    ),
    # Of a row with lots it is they that say what is available: told in any case.
    (
        "outbox_availability",
        "AND (greatest(n.on_hand - n.reserved - n.safety_stock, 0)",
        "AND (n.lots OR greatest(n.on_hand - n.reserved - n.safety_stock, 0)",
    ),
    # What an order held itself it may have again, if its lots are still good for it.
    (
        "stock_reserve_again",
        "WHERE (missing.row ->> 'requested')::bigint > coalesce((",
        """WHERE (missing.row ->> 'requested')::bigint > (
                   SELECT stock_lot_limit(stock, for_order) FROM stock
                    WHERE stock.node = missing.row ->> 'node' AND stock.sku = missing.row ->> 'sku')
            OR (missing.row ->> 'requested')::bigint > coalesce((""",
    ),
    # The warehouse's system is told of which lots to pick.
    (
        "outbox_fulfilment",
        "jsonb_build_object('sku', sku, 'quantity', quantity) ORDER BY sku)",
        """jsonb_build_object('sku', sku, 'quantity', quantity) || coalesce((
                SELECT jsonb_build_object('lots', jsonb_agg(jsonb_build_object(
                           'lot', nullif(lot, ''), 'expires_on', expires_on, 'quantity', quantity)
                           ORDER BY expires_on NULLS LAST, lot))
                  FROM (SELECT lot, level.expires_on, sum(units.quantity)::bigint AS quantity
                          FROM reserved_lots AS units JOIN reserved_units USING (key, shipment_id, node, sku)
                          JOIN stock_lots AS level USING (node, sku, lot)
                         WHERE shipment_id = NEW.shipment_id AND sku = reserved.sku AND state = 'held'
                         GROUP BY lot, level.expires_on) AS picked
                HAVING count(*) > 0), '{}') ORDER BY sku)""",
    ),
)


def _replace(function: str, before: str, after: str) -> str:
    """Put ``after`` in the place of ``before``, which must stand in ``function`` once."""
    return f"""
DO $do$
DECLARE
    source text := pg_get_functiondef('{function}'::regproc);
BEGIN
    IF array_length(string_to_array(source, $a${before}$a$), 1) <> 2 THEN
        RAISE EXCEPTION '{function} is not what migration 0019_lots knows';
    END IF;
    EXECUTE replace(source, $a${before}$a$, $b${after}$b$);
END $do$
"""


# What the next changes of lots are for, by whom; whoever knows more (a document) has said so in the same setting.
SAY = """
CREATE FUNCTION stock_lot_say(kind text, source text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('orderwright.lots', ('{"actor": "orderwright"}'::jsonb
        || coalesce(nullif(current_setting('orderwright.lots', true), '')::jsonb, '{}')
        || jsonb_build_object('kind', kind, 'source', source))::text, true);
END $$
"""

# First to expire, first out; unknown dates last. Answers how many units were found.
TAKE = """
CREATE FUNCTION stock_lot_take(
    for_key text, for_shipment text, at_node text, of_sku text, units bigint, not_from text[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    wanted record;
    one record;
    part bigint;
    missing bigint := units;
BEGIN
    wanted := stock_lot_wanted((SELECT order_id FROM reservations WHERE key = for_key));
    PERFORM stock_lot_say('reserve', for_key);
    FOR one IN
        SELECT lot, on_hand - reserved AS free FROM stock_lots
         WHERE node = at_node AND sku = of_sku AND on_hand > reserved AND lot <> ALL (not_from)
           AND (expires_on >= wanted.good_on OR (expires_on IS NULL AND NOT wanted.asks))
         ORDER BY expires_on NULLS LAST, lot
    LOOP
        EXIT WHEN missing = 0;
        part := least(missing, one.free);
        UPDATE stock_lots SET reserved = reserved + part WHERE node = at_node AND sku = of_sku AND lot = one.lot;
        INSERT INTO reserved_lots (key, shipment_id, node, sku, lot, quantity)
        VALUES (for_key, for_shipment, at_node, of_sku, one.lot, part)
        ON CONFLICT (key, shipment_id, node, sku, lot) DO UPDATE SET quantity = reserved_lots.quantity + part;
        missing := missing - part;
    END LOOP;
    RETURN units - missing;
END $$
"""

# The other way round, so that what is kept is first to expire; or units of one lot. Of units that are held no more only
# the note goes.
GIVE_BACK = """
CREATE FUNCTION stock_lot_give_back(
    for_key text, for_shipment text, at_node text, of_sku text, units bigint, of_lot text, held boolean
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    one record;
    part bigint;
    left_over bigint := units;
BEGIN
    PERFORM stock_lot_say('release', for_key);
    FOR one IN
        SELECT lot, quantity FROM reserved_lots JOIN stock_lots USING (node, sku, lot)
         WHERE key = for_key AND shipment_id = for_shipment AND node = at_node AND sku = of_sku
           AND (of_lot IS NULL OR lot = of_lot)
         ORDER BY expires_on DESC NULLS FIRST, lot DESC
    LOOP
        EXIT WHEN left_over = 0;
        part := least(left_over, one.quantity);
        IF held THEN
            UPDATE stock_lots SET reserved = reserved - part
             WHERE node = at_node AND sku = of_sku AND lot = one.lot;
        END IF;
        IF part = one.quantity THEN
            DELETE FROM reserved_lots WHERE key = for_key AND shipment_id = for_shipment AND node = at_node
               AND sku = of_sku AND lot = one.lot;
        ELSE
            UPDATE reserved_lots SET quantity = quantity - part WHERE key = for_key AND shipment_id = for_shipment
               AND node = at_node AND sku = of_sku AND lot = one.lot;
        END IF;
        left_over := left_over - part;
    END LOOP;
    RETURN units - left_over;
END $$
"""

# A promise leaves a lot for others that its order may have; answers how many of its units could.
GIVE_WAY = """
CREATE FUNCTION stock_lot_give_way(
    for_key text, for_shipment text, at_node text, of_sku text, units bigint, of_lot text, not_to text[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    moved bigint;
BEGIN
    moved := stock_lot_take(for_key, for_shipment, at_node, of_sku, units, not_to || of_lot);
    RETURN stock_lot_give_back(for_key, for_shipment, at_node, of_sku, moved, of_lot, true);
END $$
"""

# One row of reserved units got another quantity or state (was: null when it is new).
FOLLOW = """
CREATE FUNCTION stock_lots_follow(unit reserved_units, was text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    given bigint;
BEGIN
    PERFORM FROM stock WHERE node = unit.node AND sku = unit.sku FOR NO KEY UPDATE;
    IF unit.state = 'held' AND was IS DISTINCT FROM 'held' THEN
        DELETE FROM reserved_lots WHERE key = unit.key AND shipment_id = unit.shipment_id AND node = unit.node
           AND sku = unit.sku;
    END IF;
    SELECT coalesce(sum(quantity), 0) INTO given FROM reserved_lots
     WHERE key = unit.key AND shipment_id = unit.shipment_id AND node = unit.node AND sku = unit.sku;
    IF given > unit.quantity THEN
        PERFORM stock_lot_give_back(unit.key, unit.shipment_id, unit.node, unit.sku, given - unit.quantity, NULL,
                                    was = 'held');
    ELSIF given < unit.quantity AND unit.state = 'held' THEN
        given := given + stock_lot_take(unit.key, unit.shipment_id, unit.node, unit.sku, unit.quantity - given, '{}');
        IF given < unit.quantity THEN
            RAISE EXCEPTION 'lots of % at % have % units for reservation %, not %: the rest expires too soon',
                unit.sku, unit.node, given, unit.key, unit.quantity
                USING ERRCODE = 'check_violation', CONSTRAINT = 'reserved_units_lots', TABLE = 'reserved_units';
        END IF;
    END IF;
    IF unit.state = 'released' AND was = 'held' THEN
        PERFORM stock_lot_say('release', unit.key);
        UPDATE stock_lots AS level SET reserved = level.reserved - units.quantity FROM reserved_lots AS units
         WHERE units.key = unit.key AND units.shipment_id = unit.shipment_id AND units.node = unit.node
           AND units.sku = unit.sku AND level.node = unit.node AND level.sku = unit.sku AND level.lot = units.lot;
    ELSIF unit.state = 'consumed' AND was IN ('held', 'released') THEN
        -- Units that had been freed left all the same; their lot holds no less than what others have reserved of it.
        PERFORM stock_lot_say('ship', unit.shipment_id);
        UPDATE stock_lots AS level
           SET reserved = level.reserved - CASE was WHEN 'held' THEN units.quantity ELSE 0 END,
               on_hand = level.on_hand - CASE was WHEN 'held' THEN units.quantity
                                                  ELSE least(units.quantity, level.on_hand - level.reserved) END
          FROM reserved_lots AS units
         WHERE units.key = unit.key AND units.shipment_id = unit.shipment_id AND units.node = unit.node
           AND units.sku = unit.sku AND level.node = unit.node AND level.sku = unit.sku AND level.lot = units.lot;
    END IF;
END $$
"""

# Called once for a statement; a scan of it would read all of stock, so there is none. In the order in which they came:
# who was found enough for first is given lots first.
ASSIGN = """
CREATE FUNCTION stock_lots_assign() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    said text;
    one record;
BEGIN
    FOR one IN
        SELECT units.key, units.shipment_id, units.node, units.sku
          FROM (SELECT *, row_number() OVER () AS n FROM new_rows) AS units
         WHERE units.state = 'held' AND (SELECT lots FROM stock WHERE node = units.node AND sku = units.sku)
         ORDER BY n
    LOOP
        said := current_setting('orderwright.lots', true);
        PERFORM stock_lots_follow(units, NULL) FROM reserved_units AS units
          WHERE key = one.key AND shipment_id = one.shipment_id AND node = one.node AND sku = one.sku;
        PERFORM set_config('orderwright.lots', coalesce(said, ''), true);
    END LOOP;
    RETURN NULL;
END $$
"""

CHANGED = """
CREATE FUNCTION stock_lots_units_changed() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    said text;
    one record;
BEGIN
    FOR one IN
        SELECT n.key, n.shipment_id, n.node, n.sku, o.state AS was
          FROM new_rows AS n JOIN old_rows AS o USING (key, shipment_id, node, sku)
         WHERE (n.state, n.quantity) <> (o.state, o.quantity)
           AND (SELECT lots FROM stock WHERE stock.node = n.node AND stock.sku = n.sku)
         ORDER BY n.node, n.sku, n.key, n.shipment_id
    LOOP
        said := current_setting('orderwright.lots', true);
        PERFORM stock_lots_follow(units, one.was) FROM reserved_units AS units
          WHERE key = one.key AND shipment_id = one.shipment_id AND node = one.node AND sku = one.sku;
        PERFORM set_config('orderwright.lots', coalesce(said, ''), true);
    END LOOP;
    RETURN NULL;
END $$
"""

DROPPED = """
CREATE FUNCTION stock_lots_units_dropped() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    said text;
BEGIN
    IF EXISTS (SELECT FROM stock WHERE node = OLD.node AND sku = OLD.sku AND lots) THEN
        said := current_setting('orderwright.lots', true);
        PERFORM FROM stock WHERE node = OLD.node AND sku = OLD.sku FOR NO KEY UPDATE;
        -- All of it: what keeps a note of lots must not be left without its units.
        PERFORM stock_lot_give_back(OLD.key, OLD.shipment_id, OLD.node, OLD.sku, 9223372036854775807, NULL,
                                    OLD.state = 'held');
        PERFORM set_config('orderwright.lots', coalesce(said, ''), true);
    END IF;
    RETURN OLD;
END $$
"""

# A row has lots from when the first of them is known. What lay there is of none that we know.
BEGIN_LOTS = """
CREATE FUNCTION stock_lots_begin(at_node text, of_sku text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    said text := current_setting('orderwright.lots', true);
    level stock;
BEGIN
    SELECT * INTO level FROM stock WHERE node = at_node AND sku = of_sku FOR NO KEY UPDATE;
    IF NOT FOUND OR level.lots THEN
        RETURN;
    END IF;
    UPDATE stock SET lots = true WHERE node = at_node AND sku = of_sku;
    PERFORM stock_lot_say('opening', '');
    INSERT INTO stock_lots (node, sku, lot, on_hand, reserved)
    VALUES (at_node, of_sku, '', level.on_hand, level.reserved) ON CONFLICT (node, sku, lot) DO NOTHING;
    INSERT INTO reserved_lots (key, shipment_id, node, sku, lot, quantity)
    SELECT key, shipment_id, node, sku, '', quantity FROM reserved_units
     WHERE node = at_node AND sku = of_sku AND state = 'held' AND quantity > 0;
    PERFORM set_config('orderwright.lots', coalesce(said, ''), true);
END $$
"""

FIRST = """
CREATE FUNCTION stock_lots_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM stock_lots_begin(node, sku) FROM (SELECT DISTINCT node, sku FROM new_rows ORDER BY 1, 2) AS rows;
    RETURN NULL;
END $$
"""

# The lots of a row come to what the row says. More on hand: of a lot that nobody knows. Less: first of that, then of
# what keeps longest, so that we never promise for longer than what may be left; never what is reserved.
SETTLE = """
CREATE FUNCTION stock_lots_settle(at_node text, of_sku text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    level stock;
    sums record;
    one record;
    missing bigint;
    part bigint;
BEGIN
    SELECT * INTO level FROM stock WHERE node = at_node AND sku = of_sku FOR NO KEY UPDATE;
    IF NOT FOUND OR NOT level.lots THEN
        RETURN;
    END IF;
    SELECT coalesce(sum(on_hand), 0) AS on_hand, coalesce(sum(reserved), 0) AS reserved INTO sums
      FROM stock_lots WHERE node = at_node AND sku = of_sku AND on_hand > 0;
    IF sums.reserved > level.reserved THEN
        -- Units that were reserved for nobody, by a fault or a hand, and are not any more.
        missing := sums.reserved - level.reserved;
        FOR one IN
            SELECT lot, lots.reserved - coalesce((
                       SELECT sum(units.quantity) FROM reserved_lots AS units
                         JOIN reserved_units USING (key, shipment_id, node, sku)
                        WHERE units.node = at_node AND units.sku = of_sku AND units.lot = lots.lot
                          AND state = 'held'), 0) AS nobodys
              FROM stock_lots AS lots WHERE node = at_node AND sku = of_sku AND lots.reserved > 0
             ORDER BY expires_on DESC NULLS FIRST, lot
        LOOP
            part := least(missing, one.nobodys);
            CONTINUE WHEN part <= 0;
            UPDATE stock_lots SET reserved = reserved - part
             WHERE node = at_node AND sku = of_sku AND lot = one.lot;
            missing := missing - part;
            sums.reserved := sums.reserved - part;
        END LOOP;
    END IF;
    missing := sums.on_hand - level.on_hand;
    IF missing < 0 THEN
        INSERT INTO stock_lots (node, sku, lot, on_hand, reserved) VALUES (at_node, of_sku, '', -missing, 0)
        ON CONFLICT (node, sku, lot) DO UPDATE SET on_hand = stock_lots.on_hand - missing;
        missing := 0;
    ELSIF missing > 0 THEN
        FOR one IN
            SELECT lot, on_hand - reserved AS free FROM stock_lots
             WHERE node = at_node AND sku = of_sku AND on_hand > reserved
             ORDER BY expires_on DESC NULLS FIRST, lot
        LOOP
            EXIT WHEN missing = 0;
            part := least(missing, one.free);
            UPDATE stock_lots SET on_hand = on_hand - part
             WHERE node = at_node AND sku = of_sku AND lot = one.lot;
            missing := missing - part;
        END LOOP;
    END IF;
    IF missing <> 0 OR sums.reserved <> level.reserved THEN
        RAISE EXCEPTION 'lots of % at %: % of % units are reserved in them, % of % on the stock row',
            of_sku, at_node, sums.reserved, sums.on_hand, level.reserved, level.on_hand
            USING ERRCODE = 'check_violation', CONSTRAINT = 'stock_lots_sum', TABLE = 'stock_lots',
                  HINT = 'change reserved_units together with stock.reserved: lots follow';
    END IF;
END $$
"""

SETTLED = """
CREATE FUNCTION stock_lots_settled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM stock_lots_settle(OLD.node, OLD.sku);
    ELSE
        PERFORM stock_lots_settle(NEW.node, NEW.sku);
    END IF;
    RETURN NULL;
END $$
"""

# A lot is one batch of its maker: it has one date, at every node.
ONE_DATE = """
CREATE FUNCTION stock_lots_one_date() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    other record;
BEGIN
    -- Two nodes may hear of a new lot at once.
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.sku || chr(1) || NEW.lot, 19));
    SELECT node, expires_on INTO other FROM stock_lots
     WHERE sku = NEW.sku AND lot = NEW.lot AND expires_on <> (
           SELECT expires_on FROM stock_lots WHERE node = NEW.node AND sku = NEW.sku AND lot = NEW.lot) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'lot % of % expires on % at %: it has one date everywhere',
            NEW.lot, NEW.sku, other.expires_on, other.node
            USING ERRCODE = 'check_violation', CONSTRAINT = 'stock_lots_one_date', TABLE = 'stock_lots';
    END IF;
    RETURN NULL;
END $$
"""

EXPLAIN = """
CREATE FUNCTION stock_lots_explain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    said jsonb := nullif(current_setting('orderwright.lots', true), '')::jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        IF TG_OP = 'UPDATE' THEN
            IF (OLD.node, OLD.sku, OLD.lot) <> (NEW.node, NEW.sku, NEW.lot) THEN
                RAISE EXCEPTION 'a lot keeps its node, its SKU and its name' USING ERRCODE = 'restrict_violation';
            END IF;
            IF (OLD.on_hand, OLD.reserved) = (NEW.on_hand, NEW.reserved) THEN
                RETURN NULL;
            END IF;
        ELSE
            RAISE EXCEPTION 'lots stay, with nothing in them' USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    INSERT INTO stock_lot_movements
           (node, sku, lot, kind, on_hand, reserved, on_hand_after, reserved_after, actor, reason, source, document_id)
    SELECT NEW.node, NEW.sku, NEW.lot, coalesce(said ->> 'kind', 'unexplained'),
           NEW.on_hand - coalesce(OLD.on_hand, 0), NEW.reserved - coalesce(OLD.reserved, 0), NEW.on_hand, NEW.reserved,
           coalesce(said ->> 'actor', session_user), said ->> 'reason', coalesce(said ->> 'source', ''),
           said ->> 'document_id'
     WHERE (NEW.on_hand - coalesce(OLD.on_hand, 0), NEW.reserved - coalesce(OLD.reserved, 0)) <> (0, 0);
    RETURN NULL;
END $$
"""

ONLY_WITH_LOTS = """
CREATE FUNCTION stock_lot_movements_only_with_lots() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a movement is written by changing a lot, not by itself' USING ERRCODE = 'restrict_violation';
END $$
"""

# The lots of a row change after the row: of a transaction the last that was said of a row counts.
OUTBOX_LOTS = """
CREATE FUNCTION outbox_lots() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (TG_OP = 'INSERT' OR NEW.on_hand - NEW.reserved <> OLD.on_hand - OLD.reserved
        OR NEW.expires_on IS DISTINCT FROM OLD.expires_on) AND outbox_wanted('availability') THEN
        INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)
        SELECT pg_current_xact_id()::text::bigint, 'availability', node || '/' || sku, 'availability.changed',
               stock_told(stock), clock_timestamp()
          FROM stock WHERE node = NEW.node AND sku = NEW.sku;
        PERFORM outbox_wake();
    END IF;
    RETURN NULL;
END $$
"""

FUNCTIONS = (
    WANTED,
    LIMIT,
    SAY,
    TAKE,
    GIVE_BACK,
    GIVE_WAY,
    FOLLOW,
    ASSIGN,
    CHANGED,
    DROPPED,
    BEGIN_LOTS,
    FIRST,
    SETTLE,
    SETTLED,
    ONE_DATE,
    EXPLAIN,
    ONLY_WITH_LOTS,
    OUTBOX_LOTS,
)

TRIGGERS = (
    "CREATE TRIGGER lots_assign AFTER INSERT ON reserved_units REFERENCING NEW TABLE AS new_rows "
    "FOR EACH STATEMENT EXECUTE FUNCTION stock_lots_assign()",
    "CREATE TRIGGER lots_follow AFTER UPDATE ON reserved_units REFERENCING OLD TABLE AS old_rows "
    "NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION stock_lots_units_changed()",
    "CREATE TRIGGER lots_dropped BEFORE DELETE ON reserved_units FOR EACH ROW "
    "EXECUTE FUNCTION stock_lots_units_dropped()",
    "CREATE CONSTRAINT TRIGGER lots_settled AFTER UPDATE ON stock DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
    "WHEN (NEW.lots AND (OLD.on_hand, OLD.reserved) IS DISTINCT FROM (NEW.on_hand, NEW.reserved)) "
    "EXECUTE FUNCTION stock_lots_settled()",
    "CREATE TRIGGER lots_begin AFTER INSERT ON stock_lots REFERENCING NEW TABLE AS new_rows "
    "FOR EACH STATEMENT EXECUTE FUNCTION stock_lots_first()",
    "CREATE CONSTRAINT TRIGGER lots_settled AFTER INSERT OR UPDATE OF on_hand, reserved ON stock_lots "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stock_lots_settled()",
    "CREATE CONSTRAINT TRIGGER one_date AFTER INSERT OR UPDATE OF expires_on ON stock_lots "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.expires_on IS NOT NULL) "
    "EXECUTE FUNCTION stock_lots_one_date()",
    "CREATE TRIGGER explain AFTER INSERT OR UPDATE OR DELETE ON stock_lots FOR EACH ROW "
    "EXECUTE FUNCTION stock_lots_explain()",
    "CREATE TRIGGER outbox_changed AFTER INSERT OR UPDATE ON stock_lots FOR EACH ROW EXECUTE FUNCTION outbox_lots()",
    "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON stock_lots FOR EACH STATEMENT EXECUTE FUNCTION append_only()",
    "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON reserved_lots "
    "FOR EACH STATEMENT EXECUTE FUNCTION append_only()",
    "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON stock_lot_movements "
    "FOR EACH ROW EXECUTE FUNCTION append_only()",
    "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON stock_lot_movements "
    "FOR EACH STATEMENT EXECUTE FUNCTION append_only()",
    "CREATE TRIGGER only_with_lots BEFORE INSERT ON stock_lot_movements FOR EACH ROW "
    "WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION stock_lot_movements_only_with_lots()",
)


def upgrade() -> None:
    op.add_column("orders", sa.Column("min_shelf_life_days", sa.Integer(), nullable=True))
    op.create_check_constraint(
        op.f("ck_orders_min_shelf_life_days"), "orders", "min_shelf_life_days BETWEEN 0 AND 3650"
    )
    op.add_column("stock", sa.Column("lots", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.create_table(
        "stock_lots",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("lot", sa.String(), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=True),
        sa.Column("on_hand", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("told_expired", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.CheckConstraint(
            "0 <= reserved AND reserved <= on_hand", name=op.f("ck_stock_lots_reserved_within_on_hand")
        ),
        sa.CheckConstraint("(lot = '') = (expires_on IS NULL)", name=op.f("ck_stock_lots_expires_on")),
        sa.ForeignKeyConstraint(
            ["node", "sku"], ["stock.node", "stock.sku"], name="fk_stock_lots_node_stock"
        ),
        sa.PrimaryKeyConstraint("node", "sku", "lot", name="pk_stock_lots"),
    )
    op.create_index("ix_stock_lots_sku_lot", "stock_lots", ["sku", "lot"])
    op.create_index("ix_stock_lots_expires_on", "stock_lots", ["expires_on"], postgresql_where="on_hand > 0")
    op.create_table(
        "reserved_lots",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("shipment_id", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("lot", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_reserved_lots_quantity")),
        sa.ForeignKeyConstraint(
            ["key", "shipment_id", "node", "sku"],
            ["reserved_units.key", "reserved_units.shipment_id", "reserved_units.node", "reserved_units.sku"],
            name="fk_reserved_lots_key_reserved_units",
        ),
        sa.ForeignKeyConstraint(
            ["node", "sku", "lot"],
            ["stock_lots.node", "stock_lots.sku", "stock_lots.lot"],
            name="fk_reserved_lots_node_stock_lots",
        ),
        sa.PrimaryKeyConstraint("key", "shipment_id", "node", "sku", "lot", name="pk_reserved_lots"),
    )
    op.create_index("ix_reserved_lots_lot", "reserved_lots", ["sku", "lot", "node"])
    op.create_index("ix_reserved_lots_shipment", "reserved_lots", ["shipment_id"])
    op.create_table(
        "stock_lot_movements",
        sa.Column("movement_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("lot", sa.String(), nullable=False),
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
            f"kind IN ({', '.join(repr(kind) for kind in _KINDS)})", name=op.f("ck_stock_lot_movements_kind")
        ),
        sa.PrimaryKeyConstraint("movement_id", name="pk_stock_lot_movements"),
    )
    op.create_index(
        "ix_stock_lot_movements_lot", "stock_lot_movements", ["sku", "node", "lot", "movement_id"]
    )
    op.create_table(
        "stock_transfer_lots",
        sa.Column("transfer_id", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("lot", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "quantity > 0 AND 0 <= received AND received <= quantity",
            name=op.f("ck_stock_transfer_lots_quantity"),
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id", "sku"],
            ["stock_transfers.transfer_id", "stock_transfers.sku"],
            name="fk_stock_transfer_lots_transfer_id_stock_transfers",
        ),
        sa.PrimaryKeyConstraint("transfer_id", "sku", "lot", name="pk_stock_transfer_lots"),
    )
    _differences("expired")
    for function in FUNCTIONS:
        op.execute(function)
    for trigger in TRIGGERS:
        op.execute(trigger)
    for function, before, after in _REPLACED:
        op.execute(_replace(function, before, after))


def downgrade() -> None:
    for function, before, after in reversed(_REPLACED):
        op.execute(_replace(function, after, before))
    op.execute("DROP TRIGGER lots_settled ON stock")
    for trigger in ("lots_assign", "lots_follow", "lots_dropped"):
        op.execute(f"DROP TRIGGER {trigger} ON reserved_units")
    for table in ("stock_transfer_lots", "stock_lot_movements", "reserved_lots", "stock_lots"):
        op.drop_table(table)
    for function in (
        "stock_lot_movements_only_with_lots", "outbox_lots", "stock_lots_explain", "stock_lots_one_date",
        "stock_lots_settled", "stock_lots_settle", "stock_lots_first", "stock_lots_begin", "stock_lots_units_dropped",
        "stock_lots_units_changed", "stock_lots_assign", "stock_lots_follow", "stock_lot_give_way",
        "stock_lot_give_back", "stock_lot_take", "stock_lot_say", "stock_lot_limit",
        "stock_lot_wanted",
    ):  # fmt: skip
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DELETE FROM reconciliation_differences WHERE kind = 'expired'")
    _differences()
    op.drop_column("stock", "lots")
    op.drop_constraint(op.f("ck_orders_min_shelf_life_days"), "orders")
    op.drop_column("orders", "min_shelf_life_days")


def _differences(*new: str) -> None:
    """The kinds of difference that a reconciliation finds."""
    kinds = ", ".join(f"'{kind}'" for kind in (*_DIFFERENCES, *new))
    op.drop_constraint(op.f(_DIFFERENCE), "reconciliation_differences")
    op.create_check_constraint(op.f(_DIFFERENCE), "reconciliation_differences", f"kind IN ({kinds})")
