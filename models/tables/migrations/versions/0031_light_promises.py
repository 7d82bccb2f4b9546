"""Find the promises that were taken and still have all that they were made of."""

from alembic import op

revision = "0031_light_promises"
down_revision = "0030_stock_values"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_promises_heavy",
        "promises",
        ["taken_at"],
        postgresql_where="order_id IS NOT NULL AND problem <> '{}'::jsonb",
    )


def downgrade() -> None:
    op.drop_index("ix_promises_heavy", table_name="promises")
