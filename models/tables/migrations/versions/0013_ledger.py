"""The ledger: append-only double-entry books that movements of money post themselves to.

Posting is a trigger on ``payment_operations``: the version before, which knows nothing of a ledger, keeps the books
right all the same. What was confirmed before is posted here.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012_stock_movements"
branch_labels = None
depends_on = None

# Code, name, kind, usual side, whether it is moved for one tender of one order.
CHART = """
INSERT INTO ledger_accounts (code, name, kind, side, tender) VALUES
    ('held.authorised', 'Authorised and held', 'memo', 'debit', true),
    ('held.contra', 'Authorised and held, other side', 'memo', 'credit', false),
    ('provider.clearing', 'With the payment provider', 'asset', 'debit', true),
    ('receivable.on_account', 'Owed by customers on account', 'asset', 'debit', true),
    ('receivable.customers', 'Owed by customers otherwise', 'asset', 'debit', false),
    ('bank', 'Bank', 'asset', 'debit', false),
    ('liability.gift_cards', 'Gift cards outstanding', 'liability', 'credit', true),
    ('liability.store_credit', 'Store credit outstanding', 'liability', 'credit', true),
    ('tax.payable', 'Tax collected, to be paid', 'liability', 'credit', false),
    ('suspense', 'Not explained yet', 'liability', 'credit', false),
    ('sales.goods', 'Goods sold', 'income', 'credit', false),
    ('sales.freight', 'Postage charged', 'income', 'credit', false),
    ('sales.fees', 'Fees charged', 'income', 'credit', false),
    ('sales.adjustments', 'Adjustments charged', 'income', 'credit', false),
    ('sales.discounts', 'Discounts given', 'income', 'debit', false),
    ('refunds.returned', 'Refunds: came back', 'income', 'debit', false),
    ('refunds.lost_parcel', 'Refunds: parcel lost or damaged', 'income', 'debit', false),
    ('refunds.other', 'Refunds: other causes', 'income', 'debit', false),
    ('expense.goodwill', 'Goodwill', 'expense', 'debit', false),
    ('expense.provider_fees', 'Fees of the payment provider', 'expense', 'debit', false)
"""

# Under the order's lock, so that the bounds of two transactions at once are checked one after the other. The stamp
# tells the entries that came with a transaction from those that somebody adds later.
STAMP = """
CREATE FUNCTION ledger_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM orders WHERE order_id = NEW.order_id FOR NO KEY UPDATE;
    NEW.recorded_at := clock_timestamp();
    NEW.written_in := pg_current_xact_id()::text::bigint;
    RETURN NEW;
END $$
"""

NOT_EMPTY = """
CREATE FUNCTION ledger_not_empty() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM ledger_entries WHERE transaction_id = NEW.id) THEN
        RAISE EXCEPTION 'transaction % has no entries', NEW.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_not_empty';
    END IF;
    RETURN NULL;
END $$
"""

IN_BALANCE = """
CREATE FUNCTION ledger_in_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrote ledger_transactions;
    per_tender boolean;
    wrong record;
BEGIN
    SELECT * INTO wrote FROM ledger_transactions WHERE id = NEW.transaction_id;
    IF wrote.written_in <> pg_current_xact_id()::text::bigint THEN
        RAISE EXCEPTION 'ledger_entries is append-only: transaction % is complete', wrote.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    SELECT tender INTO per_tender FROM ledger_accounts WHERE code = NEW.account;
    IF NEW.tender IS NULL AND per_tender
       AND wrote.kind IN ('authorise', 'capture', 'void', 'lapse', 'reinstate', 'refund') THEN
        RAISE EXCEPTION 'an entry on % in transaction % names no tender', NEW.account, wrote.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_tender';
    END IF;
    IF NEW.tender IS NOT NULL AND NOT (per_tender AND wrote.order_id IS NOT NULL) THEN
        RAISE EXCEPTION 'an entry on % in transaction % names a tender, and belongs to none', NEW.account, wrote.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_tender';
    END IF;
    SELECT currency, sum(amount_minor) AS rest INTO wrong FROM ledger_entries
     WHERE transaction_id = wrote.id GROUP BY currency HAVING sum(amount_minor) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % is out of balance by % %', wrote.id, wrong.rest, wrong.currency
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_in_balance';
    END IF;
    RETURN NULL;
END $$
"""

# What moved for one hold: told by accounts and signs, and not by what a transaction says of itself.
MOVED = """
CREATE FUNCTION ledger_moved(
    of_order varchar, of_tender varchar, in_currency varchar,
    OUT authorised bigint, OUT held bigint, OUT captured bigint, OUT refunded bigint
) LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(e.amount_minor) FILTER (WHERE e.account = 'held.authorised' AND t.kind = 'authorise'), 0),
           coalesce(sum(e.amount_minor) FILTER (WHERE e.account = 'held.authorised'), 0),
           coalesce(sum(e.amount_minor) FILTER (WHERE e.account <> 'held.authorised' AND e.amount_minor > 0), 0),
           coalesce(-sum(e.amount_minor) FILTER (WHERE e.account <> 'held.authorised' AND e.amount_minor < 0), 0)
      FROM ledger_transactions t JOIN ledger_entries e ON e.transaction_id = t.id
     WHERE t.order_id = of_order AND e.tender = of_tender AND e.currency = in_currency
$$
"""

WITHIN_BOUNDS = """
CREATE FUNCTION ledger_within_bounds() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_order varchar;
    moved record;
BEGIN
    SELECT order_id INTO of_order FROM ledger_transactions WHERE id = NEW.transaction_id;
    SELECT * INTO moved FROM ledger_moved(of_order, NEW.tender, NEW.currency);
    IF moved.captured > moved.authorised THEN
        RAISE EXCEPTION 'order %: % % captured of % authorised under %',
            of_order, moved.captured, NEW.currency, moved.authorised, NEW.tender
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_captured_within_authorised';
    END IF;
    IF moved.refunded > moved.captured THEN
        RAISE EXCEPTION 'order %: % % refunded of % captured under %',
            of_order, moved.refunded, NEW.currency, moved.captured, NEW.tender
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_refunded_within_captured';
    END IF;
    IF moved.held < 0 THEN
        RAISE EXCEPTION 'order %: % % more were taken out of the hold % than it held',
            of_order, -moved.held, NEW.currency, NEW.tender
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_held';
    END IF;
    RETURN NULL;
END $$
"""

# Writes one transaction, once. ``entries``: objects with account and amount, some with tender and instrument.
WRITE = """
CREATE FUNCTION ledger_write(
    its_id varchar, of_order varchar, of_shipment varchar, its_kind varchar, its_cause varchar, its_source varchar,
    happened timestamptz, in_currency varchar, entries jsonb
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger_transactions (id, order_id, shipment_id, kind, cause, source, at)
    VALUES (its_id, of_order, of_shipment, its_kind, its_cause, its_source, happened)
    ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency, tender, instrument)
    SELECT its_id, row_number() OVER (ORDER BY place), entry ->> 'account', (entry ->> 'amount')::bigint, in_currency,
           entry ->> 'tender', entry ->> 'instrument'
      FROM jsonb_array_elements(entries) WITH ORDINALITY AS given (entry, place)
     WHERE (entry ->> 'amount')::bigint <> 0;
    RETURN true;
END $$
"""

# What a capture was for. The activity says it where it knows the shipment's goods (policies/money.py); without that
# word the order's own make-up is scaled, and the goods take up the rounding.
SPLIT = """
CREATE FUNCTION ledger_split(taken payment_operations) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    draft jsonb;
    total bigint;
    charges jsonb;
BEGIN
    IF taken.split IS NOT NULL
       AND (SELECT sum(value::bigint) FROM jsonb_each_text(taken.split)) = taken.amount_minor THEN
        RETURN taken.split;
    END IF;
    SELECT document INTO draft FROM intake WHERE order_id = taken.order_id;
    total := coalesce((draft -> 'totals' ->> 'total_minor')::bigint, 0);
    IF total > 0 THEN
        SELECT jsonb_object_agg(part, share) INTO charges FROM (
            SELECT CASE charge ->> 'kind' WHEN 'shipping' THEN 'freight' WHEN 'fee' THEN 'fees'
                                          WHEN 'adjustment' THEN 'adjustments' ELSE charge ->> 'kind' END AS part,
                   trunc(sum((charge ->> 'amount_minor')::bigint) * taken.amount_minor / total)::bigint AS share
              FROM jsonb_array_elements(coalesce(draft -> 'charges', '[]')) AS charge
             WHERE charge ->> 'kind' IN ('shipping', 'discount', 'tax', 'fee', 'adjustment')
             GROUP BY part
        ) AS scaled;
    END IF;
    charges := coalesce(charges, '{}');
    RETURN charges || jsonb_build_object(
        'goods', taken.amount_minor - (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(charges))
    );
END $$
"""

# The bounds of what is asked for are kept when it is intended (money_within_bounds). What a neighbour answers is a
# fact: where it comes out of a hold that our books had thought gone, the hold is reinstated by as much.
TAKE_FROM_HOLD = """
CREATE FUNCTION ledger_have_held(moved payment_operations, hold varchar, origin varchar, happened timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    short bigint := moved.amount_minor - (ledger_moved(moved.order_id, hold, moved.currency)).held;
BEGIN
    IF short > 0 THEN
        PERFORM ledger_write(
            moved.key || '/reinstate', moved.order_id, moved.shipment_id, 'reinstate', NULL, origin, happened,
            moved.currency, jsonb_build_array(
                jsonb_build_object('account', 'held.authorised', 'amount', short, 'tender', hold),
                jsonb_build_object('account', 'held.contra', 'amount', -short)));
    END IF;
END $$
"""

POST = """
CREATE FUNCTION ledger_post(
    moved payment_operations, origin varchar, happened timestamptz, called_off payment_operations
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    hold payment_operations;
    taken payment_operations;
    money varchar;
    split jsonb;
    tax bigint := 0;
    name varchar;
BEGIN
    IF moved.amount_minor = 0 OR EXISTS (SELECT FROM ledger_transactions WHERE id = moved.key) THEN
        RETURN;
    END IF;
    IF moved.kind = 'authorise' THEN
        -- One that was called off without a reference never was one.
        IF moved.state = 'confirmed' OR (moved.state = 'called_off' AND moved.provider_ref IS NOT NULL) THEN
            PERFORM ledger_write(
                moved.key, moved.order_id, NULL, 'authorise', NULL, origin, happened, moved.currency,
                jsonb_build_array(
                    jsonb_build_object('account', 'held.authorised', 'amount', moved.amount_minor,
                                       'tender', moved.key, 'instrument', moved.instrument),
                    jsonb_build_object('account', 'held.contra', 'amount', -moved.amount_minor)));
        END IF;
        RETURN;
    END IF;
    IF moved.state <> 'confirmed' THEN
        RETURN;
    END IF;
    IF moved.kind = 'refund' THEN
        SELECT * INTO taken FROM payment_operations
         WHERE kind = 'capture' AND provider_ref = moved.parent AND order_id = moved.order_id;
    END IF;
    SELECT * INTO hold FROM payment_operations
     WHERE kind = 'authorise' AND order_id = moved.order_id
       AND provider_ref = CASE moved.kind WHEN 'refund' THEN taken.parent ELSE moved.parent END;
    IF moved.kind = 'void' AND hold.key IS NULL THEN
        -- The reference was not known when the void was asked for: it is posted as its authorisation is called off.
        IF called_off.key IS NULL THEN
            RETURN;
        END IF;
        hold := called_off;
    END IF;
    IF hold.key IS NULL THEN
        RAISE EXCEPTION 'the % % of order % draws on nothing that was authorised', moved.kind, moved.key, moved.order_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_captured_within_authorised';
    END IF;
    money := CASE hold.tender WHEN 'card' THEN 'provider.clearing' WHEN 'on_account' THEN 'receivable.on_account'
                              WHEN 'gift_card' THEN 'liability.gift_cards'
                              WHEN 'store_credit' THEN 'liability.store_credit' END;
    IF moved.kind = 'void' THEN
        PERFORM ledger_have_held(moved, hold.key, origin, happened);
        PERFORM ledger_write(
            moved.key, moved.order_id, NULL, 'void', NULL, origin, happened, moved.currency,
            jsonb_build_array(
                jsonb_build_object('account', 'held.contra', 'amount', moved.amount_minor),
                jsonb_build_object('account', 'held.authorised', 'amount', -moved.amount_minor,
                                   'tender', hold.key, 'instrument', hold.instrument)));
    ELSIF moved.kind = 'capture' THEN
        PERFORM ledger_have_held(moved, hold.key, origin, happened);
        split := ledger_split(moved);
        PERFORM ledger_write(
            moved.key, moved.order_id, moved.shipment_id, 'capture', NULL, origin, happened, moved.currency,
            jsonb_build_array(
                jsonb_build_object('account', 'held.contra', 'amount', moved.amount_minor),
                jsonb_build_object('account', 'held.authorised', 'amount', -moved.amount_minor,
                                   'tender', hold.key, 'instrument', hold.instrument),
                jsonb_build_object('account', money, 'amount', moved.amount_minor,
                                   'tender', hold.key, 'instrument', hold.instrument),
                jsonb_build_object('account', 'sales.goods', 'amount', -(split ->> 'goods')::bigint),
                jsonb_build_object('account', 'sales.discounts',
                                   'amount', -coalesce((split ->> 'discount')::bigint, 0)),
                jsonb_build_object('account', 'sales.freight', 'amount', -coalesce((split ->> 'freight')::bigint, 0)),
                jsonb_build_object('account', 'sales.fees', 'amount', -coalesce((split ->> 'fees')::bigint, 0)),
                jsonb_build_object('account', 'sales.adjustments',
                                   'amount', -coalesce((split ->> 'adjustments')::bigint, 0)),
                jsonb_build_object('account', 'tax.payable', 'amount', -coalesce((split ->> 'tax')::bigint, 0))));
    ELSE
        IF moved.cause = 'goodwill' THEN
            name := 'expense.goodwill';
        ELSE
            SELECT code INTO name FROM ledger_accounts WHERE code = 'refunds.' || moved.cause;
            name := coalesce(name, 'refunds.other');
            tax := ledger_tax_of_refund(moved, taken);
        END IF;
        PERFORM ledger_write(
            moved.key, moved.order_id, moved.shipment_id, 'refund', moved.cause, origin, happened, moved.currency,
            jsonb_build_array(
                jsonb_build_object('account', name, 'amount', moved.amount_minor - tax),
                jsonb_build_object('account', 'tax.payable', 'amount', tax),
                jsonb_build_object('account', money, 'amount', -moved.amount_minor,
                                   'tender', hold.key, 'instrument', hold.instrument)));
    END IF;
END $$
"""

# Rounded on the sum of a capture's refunds, so that a capture that is paid back whole gives all its tax back.
TAX_OF_REFUND = """
CREATE FUNCTION ledger_tax_of_refund(refund payment_operations, taken payment_operations)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    collected bigint;
    paid_back bigint;
    given bigint;
BEGIN
    IF refund.split ? 'tax' THEN
        RETURN (refund.split ->> 'tax')::bigint;
    END IF;
    SELECT coalesce(-sum(amount_minor), 0) INTO collected FROM ledger_entries
     WHERE transaction_id = taken.key AND account = 'tax.payable';
    SELECT coalesce(-sum(e.amount_minor) FILTER (WHERE e.tender IS NOT NULL), 0),
           coalesce(sum(e.amount_minor) FILTER (WHERE e.account = 'tax.payable'), 0)
      INTO paid_back, given
      FROM payment_operations o JOIN ledger_transactions t ON t.id = o.key
           JOIN ledger_entries e ON e.transaction_id = t.id
     WHERE o.kind = 'refund' AND o.parent = refund.parent AND t.cause <> 'goodwill';
    RETURN trunc(collected::numeric * (paid_back + refund.amount_minor) / taken.amount_minor)::bigint - given;
END $$
"""

# Once a hold is called off, nothing is held under it any more, whether it was given back or expired by itself.
CALL_OFF = """
CREATE FUNCTION ledger_call_off(hold payment_operations, origin varchar, happened timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    voided payment_operations;
    rest bigint;
BEGIN
    PERFORM ledger_post(hold, origin, happened, NULL);
    IF hold.provider_ref IS NULL THEN
        RETURN;
    END IF;
    FOR voided IN SELECT * FROM payment_operations
                   WHERE order_id = hold.order_id AND kind = 'void' AND state = 'confirmed'
                     AND (parent IS NULL OR parent = hold.provider_ref)
    LOOP
        PERFORM ledger_post(voided, origin, coalesce(voided.answered_at, happened), hold);
    END LOOP;
    rest := (ledger_moved(hold.order_id, hold.key, hold.currency)).held;
    IF rest > 0 THEN
        PERFORM ledger_write(
            hold.key || '/lapse', hold.order_id, NULL, 'lapse', NULL, origin, happened, hold.currency,
            jsonb_build_array(
                jsonb_build_object('account', 'held.contra', 'amount', rest),
                jsonb_build_object('account', 'held.authorised', 'amount', -rest,
                                   'tender', hold.key, 'instrument', hold.instrument)));
    END IF;
END $$
"""

TRIGGER = """
CREATE FUNCTION post_to_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM orders WHERE order_id = NEW.order_id FOR NO KEY UPDATE;
    IF NEW.kind = 'authorise' AND NEW.state = 'called_off' THEN
        PERFORM ledger_call_off(NEW, 'payment_operations', now());
    ELSE
        PERFORM ledger_post(NEW, 'payment_operations', coalesce(NEW.answered_at, now()), NULL);
    END IF;
    RETURN NULL;
END $$
"""

# In the order in which they build on each other, whenever they were answered.
BACKFILL = """
DO $$
DECLARE
    moved payment_operations;
BEGIN
    FOR moved IN SELECT * FROM payment_operations WHERE state IN ('confirmed', 'called_off')
                  ORDER BY array_position(ARRAY['authorise', 'capture', 'refund', 'void'], kind::text),
                           answered_at, intended_at, key
    LOOP
        PERFORM ledger_post(moved, 'backfill', coalesce(moved.answered_at, moved.intended_at), NULL);
    END LOOP;
    FOR moved IN SELECT * FROM payment_operations WHERE kind = 'authorise' AND state = 'called_off'
                  ORDER BY intended_at, key
    LOOP
        PERFORM ledger_call_off(moved, 'backfill', coalesce(
            (SELECT max(answered_at) FROM payment_operations WHERE order_id = moved.order_id), moved.intended_at));
    END LOOP;
END $$
"""

# The constraint triggers come after the back-fill, which they would slow down: so it is checked here, as a whole.
CHECK_BACKFILL = """
DO $$
DECLARE
    wrong record;
BEGIN
    SELECT order_id, tender, moved.* INTO wrong
      FROM (SELECT DISTINCT t.order_id, e.tender, e.currency
              FROM ledger_transactions t JOIN ledger_entries e ON e.transaction_id = t.id
             WHERE e.tender IS NOT NULL) AS holds,
           ledger_moved(order_id, tender, currency) AS moved
     WHERE moved.captured > moved.authorised OR moved.refunded > moved.captured OR moved.held < 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'payment_operations of order % cannot be posted: % authorised, % captured, % refunded under %',
            wrong.order_id, wrong.authorised, wrong.captured, wrong.refunded, wrong.tender
            USING HINT = 'Compare them with the payment provider''s statement, mend them, then migrate again.';
    END IF;
END $$
"""

FUNCTIONS = (
    ("ledger_stamp()", STAMP),
    ("ledger_not_empty()", NOT_EMPTY),
    ("ledger_in_balance()", IN_BALANCE),
    ("ledger_moved(varchar, varchar, varchar)", MOVED),
    ("ledger_within_bounds()", WITHIN_BOUNDS),
    (
        "ledger_write(varchar, varchar, varchar, varchar, varchar, varchar, timestamptz, varchar, jsonb)",
        WRITE,
    ),
    ("ledger_split(payment_operations)", SPLIT),
    ("ledger_have_held(payment_operations, varchar, varchar, timestamptz)", TAKE_FROM_HOLD),
    ("ledger_tax_of_refund(payment_operations, payment_operations)", TAX_OF_REFUND),
    ("ledger_post(payment_operations, varchar, timestamptz, payment_operations)", POST),
    ("ledger_call_off(payment_operations, varchar, timestamptz)", CALL_OFF),
    ("post_to_ledger()", TRIGGER),
)


def upgrade() -> None:
    op.create_table(
        "ledger_accounts",
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("side", sa.String(), nullable=False),
        sa.Column("tender", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('asset', 'liability', 'income', 'expense', 'memo')",
            name=op.f("ck_ledger_accounts_kind"),
        ),
        sa.CheckConstraint("side IN ('debit', 'credit')", name=op.f("ck_ledger_accounts_side")),
        sa.PrimaryKeyConstraint("code", name="pk_ledger_accounts"),
    )
    op.create_table(
        "ledger_transactions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("order_id", sa.String(), nullable=True),
        sa.Column("shipment_id", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("written_in", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('authorise', 'capture', 'void', 'lapse', 'reinstate', 'refund', 'fee', 'payout', 'payment', "
            "'issue', 'adjustment')",
            name=op.f("ck_ledger_transactions_kind"),
        ),
        sa.CheckConstraint(
            "kind NOT IN ('authorise', 'capture', 'void', 'lapse', 'reinstate', 'refund') OR order_id IS NOT NULL",
            name=op.f("ck_ledger_transactions_of_an_order"),
        ),
        sa.CheckConstraint(
            "kind <> 'refund' OR cause IS NOT NULL", name=op.f("ck_ledger_transactions_refund_cause")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_transactions"),
    )
    op.create_index("ix_ledger_transactions_order", "ledger_transactions", ["order_id", "position"])
    op.create_index("ix_ledger_transactions_at", "ledger_transactions", ["at"])
    op.create_table(
        "ledger_entries",
        sa.Column("transaction_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("tender", sa.String(), nullable=True),
        sa.Column("instrument", sa.String(), nullable=True),
        sa.CheckConstraint("amount_minor <> 0", name=op.f("ck_ledger_entries_moves_something")),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["ledger_transactions.id"],
            name="fk_ledger_entries_transaction_id_ledger_transactions",
        ),
        sa.ForeignKeyConstraint(
            ["account"], ["ledger_accounts.code"], name="fk_ledger_entries_account_ledger_accounts"
        ),
        sa.PrimaryKeyConstraint("transaction_id", "number", name="pk_ledger_entries"),
    )
    op.create_index(
        "ix_ledger_entries_instrument",
        "ledger_entries",
        ["instrument", "account"],
        postgresql_where=sa.text("instrument IS NOT NULL"),
    )
    op.add_column(
        "payment_operations", sa.Column("tender", sa.String(), nullable=False, server_default="card")
    )
    op.add_column("payment_operations", sa.Column("instrument", sa.String(), nullable=True))
    op.add_column("payment_operations", sa.Column("split", postgresql.JSONB(), nullable=True))

    op.execute(CHART)
    for _, definition in FUNCTIONS:
        op.execute(definition)
    op.execute(
        "CREATE TRIGGER ledger_stamp BEFORE INSERT ON ledger_transactions FOR EACH ROW "
        "EXECUTE FUNCTION ledger_stamp()"
    )
    # Takes the lock under which nothing more is confirmed until all that was confirmed is posted.
    op.execute(
        "CREATE TRIGGER post_to_ledger AFTER INSERT OR UPDATE OF state, provider_ref ON payment_operations "
        "FOR EACH ROW WHEN (NEW.state IN ('confirmed', 'called_off')) EXECUTE FUNCTION post_to_ledger()"
    )
    op.execute(BACKFILL)
    op.execute(CHECK_BACKFILL)
    for table in ("ledger_transactions", "ledger_entries"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION append_only()"
        )
        op.execute(
            f"CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
        )
    for name, table, condition in (
        ("ledger_not_empty", "ledger_transactions", ""),
        ("ledger_in_balance", "ledger_entries", ""),
        ("ledger_within_bounds", "ledger_entries", "WHEN (NEW.tender IS NOT NULL) "),
    ):
        op.execute(
            f"CREATE CONSTRAINT TRIGGER {name} AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED "
            f"FOR EACH ROW {condition}EXECUTE FUNCTION {name}()"
        )


def downgrade() -> None:
    op.execute("DROP TRIGGER post_to_ledger ON payment_operations")
    op.drop_table("ledger_entries")
    op.drop_table("ledger_transactions")
    op.drop_table("ledger_accounts")
    for signature, _ in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature}")
    op.drop_column("payment_operations", "split")
    op.drop_column("payment_operations", "instrument")
    op.drop_column("payment_operations", "tender")
