"""When the sweeper looks at an order again, so that one that cannot be started does not keep others from it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("intake", sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
    # The default was for the rows that are there; new ones bring their own.
    op.alter_column("intake", "tries", server_default=None)
    op.add_column("intake", sa.Column("try_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(op.f("ck_intake_not_negative"), "intake", "tries >= 0")


def downgrade() -> None:
    op.drop_constraint(op.f("ck_intake_not_negative"), "intake", type_="check")
    op.drop_column("intake", "try_at")
    op.drop_column("intake", "tries")
