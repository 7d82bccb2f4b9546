"""Amendments of orders: later versions of a document, and which of them a plan was made for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0017"
branch_labels = None
depends_on = None

_TABLE = "order_amendments"

# What was decided is history: a late writer, or a hand, changes nothing of it. (Documents may be made anonymous.)
_DECIDED = """
CREATE FUNCTION amendment_decided() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'amendment % is %: this does not change any more', OLD.amendment_id, OLD.state
        USING ERRCODE = 'restrict_violation';
END $$
"""


def upgrade() -> None:
    op.create_table(
        _TABLE,
        sa.Column("amendment_id", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("base_version", sa.Integer(), nullable=False),
        sa.Column("stated_by", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("request_hash", sa.String(), nullable=False),
        sa.Column("request", postgresql.JSONB(), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column("document_hash", sa.String(), nullable=False),
        sa.Column("preview", postgresql.JSONB(), nullable=False),
        sa.Column("refusal", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('proposed', 'applied', 'refused')", name=op.f("ck_order_amendments_state")
        ),
        sa.CheckConstraint(
            "amendment_id = order_id || ':' || 'a' || number", name=op.f("ck_order_amendments_amendment_id")
        ),
        sa.CheckConstraint(
            "base_version >= 1 AND base_version < number AND stated_by >= 1 AND stated_by <= number",
            name=op.f("ck_order_amendments_versions"),
        ),
        sa.CheckConstraint(
            "(state = 'proposed') = (decided_at IS NULL)", name=op.f("ck_order_amendments_decided_at")
        ),
        sa.CheckConstraint(
            "(state = 'refused') = (refusal IS NOT NULL)", name=op.f("ck_order_amendments_refusal")
        ),
        sa.ForeignKeyConstraint(
            ["order_id"], ["orders.order_id"], name=op.f("fk_order_amendments_order_id_orders")
        ),
        sa.PrimaryKeyConstraint("amendment_id", name=op.f("pk_order_amendments")),
    )
    op.create_index("uq_order_amendments_number", _TABLE, ["order_id", "number"], unique=True)
    op.create_index("uq_order_amendments_request", _TABLE, ["order_id", "request_id"], unique=True)
    op.create_index(
        "uq_order_amendments_base",
        _TABLE,
        ["order_id", "base_version"],
        unique=True,
        postgresql_where="state = 'applied'",
    )
    op.execute(_DECIDED)
    op.execute(
        "CREATE TRIGGER amendment_decided "
        f"BEFORE UPDATE OF number, base_version, stated_by, state, refusal, decided_at ON {_TABLE} FOR EACH ROW "
        "WHEN (OLD.state <> 'proposed') EXECUTE FUNCTION amendment_decided()"
    )
    op.add_column("orders", sa.Column("document_version", sa.Integer(), server_default="1", nullable=False))
    op.add_column("plans", sa.Column("document_version", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("plans", "document_version")
    op.drop_column("orders", "document_version")
    op.drop_table(_TABLE)
    op.execute("DROP FUNCTION amendment_decided")
