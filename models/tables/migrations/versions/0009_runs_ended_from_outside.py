"""Reviews of broken runs; whose run an order is; versions that grow over the reset of a run."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_CHECK = "ck_review_tasks_kind"
_BEFORE = (
    "'risk', 'plan', 'backorder', 'step_failed', 'compensation_failed', 'shipment_exception', 'shipment_lost', "
    "'return', 'settlement'"
)


def upgrade() -> None:
    op.drop_constraint(op.f(_CHECK), "review_tasks")
    op.create_check_constraint(op.f(_CHECK), "review_tasks", f"kind IN ({_BEFORE}, 'run_broken')")
    op.add_column("orders", sa.Column("first_run_id", sa.String(), nullable=True))
    for table in ("orders", "shipments"):
        op.alter_column(table, "version", type_=sa.BigInteger())


def downgrade() -> None:
    op.execute("DELETE FROM review_tasks WHERE kind = 'run_broken'")
    op.drop_constraint(op.f(_CHECK), "review_tasks")
    op.create_check_constraint(op.f(_CHECK), "review_tasks", f"kind IN ({_BEFORE})")
    op.drop_column("orders", "first_run_id")
    for table in ("orders", "shipments"):
        op.alter_column(table, "version", type_=sa.Integer())
