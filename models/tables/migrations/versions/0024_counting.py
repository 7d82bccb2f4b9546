"""A rule of allocation that is new counts what it is about, not all that was ever promised."""

from importlib import import_module

from alembic import op

revision = "0024_counting"
down_revision = "0023_kept"
branch_labels = None
depends_on = None

# A rule is counted while nobody else may change stock. What it does not ask for does not stand in the statement, so
# that the planner sees what is left: the units of one SKU, those that are held, or what was promised in its time. An
# order is looked at only where its tier matters.
COUNTED_OF = """
CREATE FUNCTION stock_allocation_counted_of(rule stock_allocations)
RETURNS TABLE (sku text, node text, used bigint) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE
        'SELECT unit.sku::text, allocation_counted_at($1, unit.node), sum(unit.quantity)::bigint
           FROM reserved_units AS unit JOIN reservations AS holding USING (key)
          WHERE allocation_of_group($1, split_part(holding.order_id, '':'', 1), '
        || CASE WHEN rule.tiers = '{}' THEN 'NULL)' ELSE
               '(SELECT customer_tier FROM orders WHERE orders.order_id = holding.order_id))' END
        || CASE WHEN rule.sku IS NOT NULL THEN ' AND unit.sku = $2' ELSE '' END
        || CASE WHEN rule.node <> '*' THEN ' AND unit.node = $3' ELSE '' END
        || CASE WHEN rule.kind <> 'cap' THEN ' AND unit.state = ''held''' ELSE ' AND unit.state <> ''released''' END
        || CASE WHEN rule.kind = 'cap' AND rule.valid_from IS NOT NULL THEN ' AND holding.created_at >= $4' ELSE '' END
        || CASE WHEN rule.kind = 'cap' AND rule.valid_until IS NOT NULL THEN ' AND holding.created_at < $5' ELSE '' END
        || ' GROUP BY 1, 2 HAVING sum(unit.quantity) <> 0 ORDER BY 1, 2'
    USING rule, rule.sku, rule.node, rule.valid_from, rule.valid_until;
END $$
"""
COUNTED = """
CREATE OR REPLACE FUNCTION stock_allocation_counted()
RETURNS TABLE (rule_id text, sku text, node text, used bigint) LANGUAGE sql STABLE AS $$
    SELECT rule.rule_id, counted.* FROM stock_allocations AS rule, stock_allocation_counted_of(rule) AS counted
$$
"""


def upgrade() -> None:
    op.execute(COUNTED_OF)
    op.execute(COUNTED)
    # Rows come in the order of their time: a summary of each stretch of them finds a stretch of time, and costs who
    # reserves next to nothing.
    op.create_index(
        "ix_reservations_created_at",
        "reservations",
        ["created_at"],
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )


def downgrade() -> None:
    op.drop_index("ix_reservations_created_at", "reservations")
    before = import_module("models.tables.migrations.versions.0018_channels")
    op.execute(before.COUNTED.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute("DROP FUNCTION stock_allocation_counted_of(stock_allocations)")
