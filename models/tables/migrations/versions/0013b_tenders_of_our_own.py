"""Customers' accounts with a credit limit, gift cards and store credit; the ledger keeps each within its limit."""

import sqlalchemy as sa
from alembic import op

revision = "0013b"
down_revision = "0014b_outbox_books"
branch_labels = None
depends_on = None

# Whoever moves an instrument has it alone until the end, so that two orders at once cannot both spend the same.
INSTRUMENT_LOCKED = """
CREATE FUNCTION ledger_lock_instrument() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM stored_value WHERE instrument = NEW.instrument AND currency = NEW.currency FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM 1 FROM customer_accounts WHERE instrument = NEW.instrument AND currency = NEW.currency
            FOR NO KEY UPDATE;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no account, gift card or credit % in %', NEW.instrument, NEW.currency
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_instrument';
    END IF;
    RETURN NEW;
END $$
"""

# What is owed and held of an account, or spent and held of what was put on a card. Only what makes it more is refused:
# a limit that was lowered stops the next order, and not the capture of one that was accepted.
INSTRUMENT_WITHIN_LIMIT = """
CREATE FUNCTION ledger_within_limit() RETURNS trigger LANGUAGE plpgsql AS $$
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
    IF used > coalesce(credit, 0) THEN
        RAISE EXCEPTION '% is beyond its limit by % %', NEW.instrument, used - coalesce(credit, 0), NEW.currency
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_within_limit';
    END IF;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "customer_accounts",
        sa.Column("instrument", sa.String(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("credit_limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("credit_limit_minor >= 0", name=op.f("ck_customer_accounts_not_negative")),
        sa.PrimaryKeyConstraint("instrument", name="pk_customer_accounts"),
    )
    op.create_table(
        "stored_value",
        sa.Column("instrument", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('gift_card', 'store_credit')", name=op.f("ck_stored_value_kind")),
        sa.PrimaryKeyConstraint("instrument", name="pk_stored_value"),
    )
    op.execute(INSTRUMENT_LOCKED)
    op.execute(INSTRUMENT_WITHIN_LIMIT)
    op.execute(
        "CREATE TRIGGER ledger_instrument BEFORE INSERT ON ledger_entries FOR EACH ROW "
        "WHEN (NEW.instrument IS NOT NULL) EXECUTE FUNCTION ledger_lock_instrument()"
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER ledger_within_limit AFTER INSERT ON ledger_entries "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.instrument IS NOT NULL) "
        "EXECUTE FUNCTION ledger_within_limit()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER ledger_within_limit ON ledger_entries")
    op.execute("DROP TRIGGER ledger_instrument ON ledger_entries")
    op.execute("DROP FUNCTION ledger_within_limit()")
    op.execute("DROP FUNCTION ledger_lock_instrument()")
    op.drop_table("stored_value")
    op.drop_table("customer_accounts")
