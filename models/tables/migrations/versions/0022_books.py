"""What SQL by hand could do to the books: past a bound from an old snapshot, past every tender, in no currency."""

import sqlalchemy as sa
from alembic import op

revision = "0022_books"
down_revision = "0021_parts"
branch_labels = None
depends_on = None

# A lock is not enough for whoever looks with a snapshot that is older than the lock: they would see a hold, or a credit
# limit, as it was before somebody else used it up. Everything of ours is READ COMMITTED.
_NO_OLD_SNAPSHOT = """
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RAISE EXCEPTION 'money is moved in READ COMMITTED only: an older snapshot does not show what others have taken'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
"""
# Of an order that is not there (yet) no row can be locked.
_NO_ROW_TO_LOCK = """
    IF NOT FOUND AND NEW.order_id IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('ledger:' || NEW.order_id, 0));
    END IF;
"""

_STAMP = """
CREATE OR REPLACE FUNCTION ledger_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN/*no old snapshot*/
    PERFORM 1 FROM orders WHERE order_id = NEW.order_id FOR NO KEY UPDATE;/*no row to lock*/
    NEW.recorded_at := clock_timestamp();
    NEW.written_in := pg_current_xact_id()::text::bigint;
    RETURN NEW;
END $$
"""

_MONEY_WITHIN_BOUNDS = """
CREATE OR REPLACE FUNCTION money_within_bounds() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    available bigint;
    spoken_for bigint;
BEGIN/*no old snapshot*/
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


# What an order pays and is paid back goes through its tenders: from the bank, nothing would say how much there was.
_ONLY_OF_TENDERS = """
    IF wrote.kind IN ('authorise', 'capture', 'void', 'lapse', 'reinstate', 'refund')
       AND keeps_money AND NOT per_tender AND NEW.account <> 'tax.payable' THEN
        RAISE EXCEPTION 'the % % moves money of a tender, and nothing on %', wrote.kind, wrote.id, NEW.account
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_tender';
    END IF;
    IF NEW.instrument IS NULL
       AND NEW.account IN ('receivable.on_account', 'liability.gift_cards', 'liability.store_credit') THEN
        RAISE EXCEPTION 'an entry on % in transaction % does not say whose it is', NEW.account, wrote.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_instrument';
    END IF;
"""


_IN_BALANCE = """
CREATE OR REPLACE FUNCTION ledger_in_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrote ledger_transactions;
    per_tender boolean;
    keeps_money boolean;
    wrong record;
BEGIN
    SELECT * INTO wrote FROM ledger_transactions WHERE id = NEW.transaction_id;
    IF wrote.written_in <> pg_current_xact_id()::text::bigint THEN
        RAISE EXCEPTION 'ledger_entries is append-only: transaction % is complete', wrote.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    SELECT tender, kind IN ('asset', 'liability') INTO per_tender, keeps_money
      FROM ledger_accounts WHERE code = NEW.account;
    IF NEW.tender IS NULL AND per_tender
       AND wrote.kind IN ('authorise', 'capture', 'void', 'lapse', 'reinstate', 'refund') THEN
        RAISE EXCEPTION 'an entry on % in transaction % names no tender', NEW.account, wrote.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_tender';
    END IF;
    IF NEW.tender IS NOT NULL AND NOT (per_tender AND wrote.order_id IS NOT NULL) THEN
        RAISE EXCEPTION 'an entry on % in transaction % names a tender, and belongs to none', NEW.account, wrote.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_tender';
    END IF;/*only of tenders*/
    SELECT currency, sum(amount_minor) AS rest INTO wrong FROM ledger_entries
     WHERE transaction_id = wrote.id GROUP BY currency HAVING sum(amount_minor) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % is out of balance by % %', wrote.id, wrong.rest, wrong.currency
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_in_balance';
    END IF;
    RETURN NULL;
END $$
"""


# ISO 4217, as models.money has them: what has another one can be read by nobody, and the books only grow.
_CURRENCIES = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD "
    "CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD "
    "GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT "
    "LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR "
    "NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP "
    "STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XOF "
    "XPF YER ZAR ZMW ZWG"
)
_IN_A_CURRENCY = ("ledger_entries", "payment_operations", "customer_accounts", "stored_value")

_DIFFERENCES = (
    "ours_only", "theirs_only", "amount_differs", "ledger_differs", "twice_theirs", "held_after_end",
    "held_only_ours", "answer_lost", "label_of_cancelled", "label_unknown", "label_answer_lost", "label_cost_differs",
    "left_without_label", "held_for_ended", "held_for_unknown", "open_without_reservation", "paid_without_stock",
    "reserved_differs", "expired",
)  # fmt: skip

# Whoever changes an account or a card says who they are in the setting orderwright.instrument of the transaction, as
# JSON, just before; it counts for one statement. Of others it is known who was connected. A request is written down
# even if it changes nothing, so that a repeat that comes late does not either.
_NOTE = """
CREATE FUNCTION instrument_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    said jsonb := nullif(current_setting('orderwright.instrument', true), '')::jsonb;
BEGIN
    PERFORM set_config('orderwright.instrument', '', true);
    IF TG_OP = 'UPDATE' AND to_jsonb(OLD) = to_jsonb(NEW) AND said ->> 'request_id' IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO instrument_changes (instrument, actor, reason, request_id, active, credit_limit_minor, currency)
    VALUES (NEW.instrument, coalesce(said ->> 'actor', session_user), said ->> 'reason', said ->> 'request_id',
            NEW.active, (to_jsonb(NEW) ->> 'credit_limit_minor')::bigint, NEW.currency);
    RETURN NULL;
END $$
"""
# A reversal takes a payment or an issue back as a whole.
REVERSES = """
CREATE FUNCTION ledger_reverses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM ledger_transactions WHERE id = NEW.reverses AND kind = NEW.kind
                      AND kind IN ('payment', 'issue') AND reverses IS NULL)
       OR EXISTS (
           (SELECT account, -amount_minor, currency, tender, instrument FROM ledger_entries
             WHERE transaction_id = NEW.reverses
            EXCEPT ALL
            SELECT account, amount_minor, currency, tender, instrument FROM ledger_entries
             WHERE transaction_id = NEW.id)
           UNION ALL
           (SELECT account, amount_minor, currency, tender, instrument FROM ledger_entries
             WHERE transaction_id = NEW.id
            EXCEPT ALL
            SELECT account, -amount_minor, currency, tender, instrument FROM ledger_entries
             WHERE transaction_id = NEW.reverses)) THEN
        RAISE EXCEPTION 'transaction % does not take % back as it was written', NEW.id, NEW.reverses
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_reverses';
    END IF;
    RETURN NULL;
END $$
"""
# A payment that the bank took back is a fact, whatever the account owes by then.
_ONLY_WHAT_IS_ASKED_FOR = """
    IF EXISTS (SELECT FROM ledger_transactions
                WHERE id = NEW.transaction_id AND reverses IS NOT NULL AND kind = 'payment') THEN
        RETURN NULL;
    END IF;
"""
_WITHIN_LIMIT = """
CREATE OR REPLACE FUNCTION ledger_within_limit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    used bigint;
    credit bigint;
BEGIN
    IF (SELECT coalesce(sum(amount_minor), 0) FROM ledger_entries
         WHERE transaction_id = NEW.transaction_id AND instrument = NEW.instrument) <= 0 THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(sum(amount_minor), 0) INTO used FROM ledger_entries WHERE instrument = NEW.instrument;
    SELECT credit_limit_minor INTO credit FROM customer_accounts WHERE instrument = NEW.instrument;
    IF used > coalesce(credit, 0) THEN/*only what is asked for*/
        RAISE EXCEPTION '% is beyond its limit by % %', NEW.instrument, used - coalesce(credit, 0), NEW.currency
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_within_limit';
    END IF;
    RETURN NULL;
END $$
"""
_FUNCTIONS = (_STAMP, _MONEY_WITHIN_BOUNDS, _IN_BALANCE, _WITHIN_LIMIT)
_INSTRUMENTS = ("customer_accounts", "stored_value")

_ADDED = {
    "/*no old snapshot*/": _NO_OLD_SNAPSHOT,
    "/*no row to lock*/": _NO_ROW_TO_LOCK,
    "/*only of tenders*/": _ONLY_OF_TENDERS,
    "/*only what is asked for*/": _ONLY_WHAT_IS_ASKED_FOR,
}


def _with(function: str, *, added: bool) -> str:
    """A function as it is from here on, or as it was before."""
    for place, what in _ADDED.items():
        function = function.replace(place, what if added else "")
    return function


def _differences(*new: str) -> None:
    """The kinds of difference that a reconciliation finds."""
    name, kinds = (
        "ck_reconciliation_differences_kind",
        ", ".join(f"'{kind}'" for kind in (*_DIFFERENCES, *new)),
    )
    op.drop_constraint(op.f(name), "reconciliation_differences")
    op.create_check_constraint(op.f(name), "reconciliation_differences", f"kind IN ({kinds})")


def upgrade() -> None:
    _differences("movements_differ", "allocation_differs")
    # What the reconciliation looks for; rows come in the order of time, so the smallest of indexes will do.
    op.create_index(
        "ix_ledger_transactions_recorded", "ledger_transactions", ["recorded_at"], postgresql_using="brin"
    )
    known = ", ".join(f"'{code}'" for code in _CURRENCIES.split())
    for table in _IN_A_CURRENCY:
        op.create_check_constraint(op.f(f"ck_{table}_currency"), table, f"currency IN ({known})")
    op.create_check_constraint(
        op.f("ck_ledger_entries_amount"),
        "ledger_entries",
        "amount_minor BETWEEN -1000000000000000 AND 1000000000000000",
    )
    op.add_column("ledger_transactions", sa.Column("reverses", sa.String(), nullable=True))
    op.create_index(
        "uq_ledger_transactions_reverses",
        "ledger_transactions",
        ["reverses"],
        unique=True,
        postgresql_where=sa.text("reverses IS NOT NULL"),
    )
    for function in _FUNCTIONS:
        op.execute(_with(function, added=True))
    op.execute(REVERSES)
    op.execute(
        "CREATE CONSTRAINT TRIGGER ledger_reverses AFTER INSERT ON ledger_transactions "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.reverses IS NOT NULL) "
        "EXECUTE FUNCTION ledger_reverses()"
    )
    op.create_table(
        "instrument_changes",
        sa.Column("change_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("instrument", sa.String(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("credit_limit_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("change_id", name="pk_instrument_changes"),
    )
    op.create_index("ix_instrument_changes_instrument", "instrument_changes", ["instrument", "change_id"])
    op.create_index(
        "uq_instrument_changes_request",
        "instrument_changes",
        ["instrument", "request_id"],
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.execute(_NOTE)
    for table in _INSTRUMENTS:
        op.execute(
            f"CREATE TRIGGER instrument_changed AFTER INSERT OR UPDATE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION instrument_changed()"
        )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON instrument_changes "
        "FOR EACH ROW EXECUTE FUNCTION append_only()"
    )
    op.execute(
        "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON instrument_changes "
        "FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
    )


def downgrade() -> None:
    for table in _INSTRUMENTS:
        op.execute(f"DROP TRIGGER instrument_changed ON {table}")
    op.execute("DROP FUNCTION instrument_changed()")
    op.drop_table("instrument_changes")
    op.execute("DROP TRIGGER ledger_reverses ON ledger_transactions")
    op.execute("DROP FUNCTION ledger_reverses()")
    for function in _FUNCTIONS:
        op.execute(_with(function, added=False))
    op.drop_index("uq_ledger_transactions_reverses", table_name="ledger_transactions")
    op.drop_column("ledger_transactions", "reverses")
    op.drop_constraint(op.f("ck_ledger_entries_amount"), "ledger_entries")
    for table in _IN_A_CURRENCY:
        op.drop_constraint(op.f(f"ck_{table}_currency"), table)
    op.drop_index("ix_ledger_transactions_recorded", table_name="ledger_transactions")
    op.execute(
        "DELETE FROM reconciliation_differences WHERE kind IN ('movements_differ', 'allocation_differs')"
    )
    _differences()
