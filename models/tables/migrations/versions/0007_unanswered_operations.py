"""Find operations without an answer: what is watched all the time must not read every operation there ever was."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLES = ("payment_operations", "shipping_operations")


def upgrade() -> None:
    for table in _TABLES:
        op.create_index(
            f"ix_{table}_intended", table, ["intended_at"], postgresql_where=sa.text("state = 'intended'")
        )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_index(f"ix_{table}_intended", table_name=table)
