"""What stock is worth where it lies, as it was worked out."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0030_stock_values"
down_revision = "0029_promises"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stock_value_runs",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("worked_out_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("result", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_stock_value_runs")),
    )
    op.create_index("ix_stock_value_runs_worked_out_at", "stock_value_runs", ["worked_out_at"])
    op.create_table(
        "stock_values",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("price_mills", sa.BigInteger(), nullable=True),
        sa.Column("sold", sa.BigInteger(), nullable=True),
        sa.Column("on_hand", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "price_mills >= 0 AND sold >= 0 AND on_hand >= 0", name=op.f("ck_stock_values_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["stock_value_runs.run_id"], name=op.f("fk_stock_values_run_id_stock_value_runs")
        ),
        sa.PrimaryKeyConstraint("run_id", "sku", "node", name=op.f("pk_stock_values")),
    )


def downgrade() -> None:
    op.drop_table("stock_values")
    op.drop_table("stock_value_runs")
