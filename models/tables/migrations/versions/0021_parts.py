"""Which part of an order another means of payment is for, and how much: no more than that is held on it at first."""

import sqlalchemy as sa
from alembic import op

revision = "0021_parts"
down_revision = "0020_prices"
branch_labels = None
depends_on = None

_TABLE = "order_tenders"
_KIND = "ck_order_tenders_kind"


def upgrade() -> None:
    # The version before stores neither: its tenders are for the first part, and of any amount, as they were.
    op.add_column(_TABLE, sa.Column("instead_of", sa.Integer(), nullable=False, server_default="1"))
    op.add_column(_TABLE, sa.Column("amount_minor", sa.BigInteger(), nullable=True))
    op.add_column(_TABLE, sa.Column("first_hold", sa.String(), nullable=True))
    op.drop_constraint(op.f(_KIND), _TABLE)
    op.create_check_constraint(
        op.f(_KIND), _TABLE, "kind IN ('card', 'gift_card', 'store_credit', 'on_account')"
    )
    op.create_check_constraint(op.f("ck_order_tenders_instead_of"), _TABLE, "instead_of >= 1")


def downgrade() -> None:
    op.execute(f"DELETE FROM {_TABLE} WHERE kind <> 'card'")  # noqa: S608 - the table's name is ours
    op.drop_constraint(op.f("ck_order_tenders_instead_of"), _TABLE)
    op.drop_constraint(op.f(_KIND), _TABLE)
    op.create_check_constraint(op.f(_KIND), _TABLE, "kind = 'card'")
    op.drop_column(_TABLE, "first_hold")
    op.drop_column(_TABLE, "amount_minor")
    op.drop_column(_TABLE, "instead_of")
