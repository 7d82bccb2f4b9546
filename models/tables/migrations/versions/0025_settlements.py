"""What was written of a provider's statement, payouts and fees, can be taken back as payments and issues can."""

from importlib import import_module

from alembic import op

revision = "0025_settlements"
down_revision = "0024_counting"
branch_labels = None
depends_on = None

_BEFORE: str = import_module("models.tables.migrations.versions.0022_books").REVERSES.replace(
    "CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"
)


def upgrade() -> None:
    op.execute(_BEFORE.replace("('payment', 'issue')", "('payment', 'issue', 'payout', 'fee')"))


def downgrade() -> None:
    op.execute(_BEFORE)
