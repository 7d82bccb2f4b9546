"""The outbox follows what came after it: safety stock is not available, and finance is told what the ledger posts."""

from alembic import op

revision = "0014b_outbox_books"
down_revision = "0015"
branch_labels = None
depends_on = None

# What is available: on a row, and what is told of it.
_AVAILABLE = "greatest({row}.on_hand - {row}.reserved - {row}.safety_stock, 0)"
_TOLD = "'on_hand', {row}.on_hand, 'reserved', {row}.reserved, 'safety_stock', {row}.safety_stock"
_AVAILABLE_BEFORE = "{row}.on_hand - {row}.reserved"
_TOLD_BEFORE = "'on_hand', {row}.on_hand, 'reserved', {row}.reserved"


def _availability(available: str, told: str) -> str:
    """The trigger's function: a row that is gone has nothing."""

    def event(row: str, *, gone: bool = False) -> str:
        amounts = "'on_hand', 0, 'reserved', 0" if gone else told.format(row=row)
        rest = "0" if gone else available.format(row=row)
        return (
            "INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at) "
            f"SELECT pg_current_xact_id()::text::bigint, 'availability', {row}.node || '/' || {row}.sku, "
            f"'availability.changed', jsonb_build_object('node', {row}.node, 'sku', {row}.sku, {amounts}, "
            f"'available', {rest}), clock_timestamp()"
        )

    return f"""
CREATE OR REPLACE FUNCTION outbox_availability() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT outbox_wanted('availability') THEN RETURN NULL; END IF;
    IF TG_OP = 'UPDATE' THEN
        {event("n")}
          FROM new_rows n JOIN old_rows o USING (node, sku)
         WHERE {available.format(row="n")} <> {available.format(row="o")};
    ELSIF TG_OP = 'INSERT' THEN
        {event("n")} FROM new_rows n;
    ELSE
        {event("o", gone=True)} FROM old_rows o;
    END IF;
    IF FOUND THEN PERFORM outbox_wake(); END IF;
    RETURN NULL;
END $$
"""


AVAILABILITY = _availability(_AVAILABLE, _TOLD)

# At the end of the transaction, when its entries stand there. What is of no order has a key of its own, so that it
# comes in order, too. The amount is what moved for a tender. A tender's instrument, which may be a gift card's number,
# is told to nobody.
LEDGER = """
CREATE FUNCTION outbox_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT outbox_wanted('finance') THEN RETURN NULL; END IF;
    PERFORM outbox_stage('finance', coalesce(NEW.order_id, 'ledger'), 'ledger.' || NEW.kind, (
        SELECT jsonb_build_object(
                   'transaction', NEW.id, 'order_id', NEW.order_id, 'shipment_id', NEW.shipment_id,
                   'cause', NEW.cause, 'at', NEW.at, 'currency', min(currency),
                   'amount_minor', sum(abs(amount_minor)) FILTER (
                       WHERE tender IS NOT NULL AND NOT (NEW.kind = 'capture' AND account = 'held.authorised')),
                   'entries', jsonb_agg(jsonb_build_object('account', account, 'amount_minor', amount_minor,
                                                           'currency', currency, 'tender', tender) ORDER BY number))
          FROM ledger_entries WHERE transaction_id = NEW.id), 'ledger:' || NEW.id);
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.execute(AVAILABILITY)
    op.execute(LEDGER)
    op.execute(
        "CREATE CONSTRAINT TRIGGER outbox_posted AFTER INSERT ON ledger_transactions DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION outbox_ledger()"
    )
    # Each movement of money is in the ledger, with what it was for: told twice, it would be counted twice.
    op.execute("DROP TRIGGER outbox_inserted ON payment_operations")
    op.execute("DROP TRIGGER outbox_updated ON payment_operations")


def downgrade() -> None:
    op.execute(_availability(_AVAILABLE_BEFORE, _TOLD_BEFORE))
    op.execute("DROP TRIGGER outbox_posted ON ledger_transactions")
    op.execute("DROP FUNCTION outbox_ledger()")
    op.execute(
        "CREATE TRIGGER outbox_inserted AFTER INSERT ON payment_operations FOR EACH ROW "
        "WHEN (NEW.state = 'confirmed') EXECUTE FUNCTION outbox_payment()"
    )
    op.execute(
        "CREATE TRIGGER outbox_updated AFTER UPDATE ON payment_operations FOR EACH ROW "
        "WHEN (OLD.state IS DISTINCT FROM NEW.state AND NEW.state IN ('confirmed', 'called_off')) "
        "EXECUTE FUNCTION outbox_payment()"
    )
