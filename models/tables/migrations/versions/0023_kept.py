"""What was answered is kept as it was: movements of money, the chart of accounts, what warehouses told."""

from alembic import op

revision = "0023_kept"
down_revision = "0022_books"
branch_labels = None
depends_on = None

# Bounds and books are reckoned from these rows, so nobody changes by the way what the provider has confirmed. Whoever
# has to mend one by hand says why in the setting orderwright.mend of the transaction.
_KEPT = """
CREATE FUNCTION payment_operation_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('orderwright.mend', true), '') <> '' THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'the % % is kept: what was asked of a provider is not forgotten', OLD.kind, OLD.key
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state NOT IN ('confirmed', 'called_off')
       OR (NEW.key, NEW.kind, NEW.order_id, NEW.currency, NEW.amount_minor, NEW.tender)
          <> (OLD.key, OLD.kind, OLD.order_id, OLD.currency, OLD.amount_minor, OLD.tender)
       OR (NEW.shipment_id, NEW.parent, NEW.instrument)
          IS DISTINCT FROM (OLD.shipment_id, OLD.parent, OLD.instrument) THEN
        RAISE EXCEPTION 'the % % is confirmed: it is not changed any more', OLD.kind, OLD.key
            USING ERRCODE = 'restrict_violation',
                  HINT = 'Write the opposite movement, or say why in SET LOCAL orderwright.mend.';
    END IF;
    RETURN NEW;
END $$
"""
_ANSWERED = """
CREATE FUNCTION stock_document_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'document % is kept as it was answered: send another one', OLD.document_id
        USING ERRCODE = 'restrict_violation';
END $$
"""


def upgrade() -> None:
    op.execute(_KEPT)
    op.execute(
        "CREATE TRIGGER kept_changed BEFORE UPDATE ON payment_operations "
        "FOR EACH ROW WHEN (OLD.state = 'confirmed') EXECUTE FUNCTION payment_operation_kept()"
    )
    op.execute(
        "CREATE TRIGGER kept_deleted BEFORE DELETE ON payment_operations "
        "FOR EACH ROW EXECUTE FUNCTION payment_operation_kept()"
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON ledger_accounts "
        "FOR EACH ROW EXECUTE FUNCTION append_only()"
    )
    op.execute(_ANSWERED)
    op.execute(
        "CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON stock_documents "
        "FOR EACH ROW WHEN (OLD.answer IS NOT NULL) EXECUTE FUNCTION stock_document_kept()"
    )
    # A rule of allocation that is new counts the units of its SKU; an account's balance is the sum of its entries.
    op.create_index("ix_reserved_units_sku", "reserved_units", ["sku"])
    op.create_index(
        "ix_ledger_entries_of_instrument",
        "ledger_entries",
        ["instrument"],
        postgresql_include=["amount_minor"],
        postgresql_where="instrument IS NOT NULL",
    )


def downgrade() -> None:
    op.drop_index("ix_ledger_entries_of_instrument", "ledger_entries")
    op.drop_index("ix_reserved_units_sku", "reserved_units")
    op.execute("DROP TRIGGER kept ON stock_documents")
    op.execute("DROP FUNCTION stock_document_kept()")
    op.execute("DROP TRIGGER append_only ON ledger_accounts")
    op.execute("DROP TRIGGER kept_deleted ON payment_operations")
    op.execute("DROP TRIGGER kept_changed ON payment_operations")
    op.execute("DROP FUNCTION payment_operation_kept()")
