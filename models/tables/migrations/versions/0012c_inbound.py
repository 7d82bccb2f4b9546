"""What suppliers will deliver, and when: it can be promised before it is there."""

import sqlalchemy as sa
from alembic import op

revision = "0012c_inbound"
down_revision = "0013b"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inbound_supply",
        sa.Column("supply_id", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("expected_on", sa.Date(), nullable=False),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("quantity >= 0 AND received >= 0", name=op.f("ck_inbound_supply_not_negative")),
        sa.ForeignKeyConstraint(["node"], ["nodes.node_id"], name="fk_inbound_supply_node_nodes"),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["stock_documents.document_id"],
            name="fk_inbound_supply_document_id_stock_documents",
        ),
        sa.PrimaryKeyConstraint("supply_id", "node", "sku", name="pk_inbound_supply"),
    )
    op.create_index(
        "ix_inbound_supply_open",
        "inbound_supply",
        ["sku", "node", "expected_on"],
        postgresql_where="received < quantity",
    )


def downgrade() -> None:
    op.drop_table("inbound_supply")
