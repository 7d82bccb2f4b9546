"""What warehouses tell of stock: their documents, transfers between nodes, and the promises that a count breaks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012b_warehouse"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stock_documents",
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("answer", postgresql.JSONB(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("document_id", name="pk_stock_documents"),
    )
    op.create_index("ix_stock_documents_at", "stock_documents", ["at"])
    op.create_table(
        "stock_transfers",
        sa.Column("transfer_id", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("from_node", sa.String(), nullable=False),
        sa.Column("to_node", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("lost", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "quantity > 0 AND received >= 0 AND lost >= 0 AND received + lost <= quantity",
            name=op.f("ck_stock_transfers_quantity"),
        ),
        sa.CheckConstraint("from_node <> to_node", name=op.f("ck_stock_transfers_nodes")),
        sa.CheckConstraint(
            "(received + lost = quantity) = (closed_at IS NOT NULL)",
            name=op.f("ck_stock_transfers_closed_at"),
        ),
        sa.ForeignKeyConstraint(["from_node"], ["nodes.node_id"], name="fk_stock_transfers_from_node_nodes"),
        sa.ForeignKeyConstraint(["to_node"], ["nodes.node_id"], name="fk_stock_transfers_to_node_nodes"),
        sa.PrimaryKeyConstraint("transfer_id", "sku", name="pk_stock_transfers"),
    )
    op.create_index(
        "ix_stock_transfers_open", "stock_transfers", ["sku", "to_node"], postgresql_where="closed_at IS NULL"
    )
    op.create_table(
        "stock_released",
        sa.Column("released_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("reservation", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("shipment_id", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_stock_released_quantity")),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["stock_documents.document_id"],
            name="fk_stock_released_document_id_stock_documents",
        ),
        sa.PrimaryKeyConstraint("released_id", name="pk_stock_released"),
    )
    op.create_index(
        "ix_stock_released_waiting",
        "stock_released",
        ["released_id"],
        postgresql_where="handled_at IS NULL",
    )
    op.create_index("ix_stock_released_order", "stock_released", ["order_id"])


def downgrade() -> None:
    op.drop_table("stock_released")
    op.drop_table("stock_transfers")
    op.drop_table("stock_documents")
