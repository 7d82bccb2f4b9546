"""A third verdict: a person has done by hand what a step could not."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_CHECK = "ck_review_tasks_verdict"


def upgrade() -> None:
    op.drop_constraint(op.f(_CHECK), "review_tasks")
    op.create_check_constraint(op.f(_CHECK), "review_tasks", "verdict IN ('approve', 'reject', 'finish')")


def downgrade() -> None:
    op.execute("UPDATE review_tasks SET verdict = 'approve' WHERE verdict = 'finish'")
    op.drop_constraint(op.f(_CHECK), "review_tasks")
    op.create_check_constraint(op.f(_CHECK), "review_tasks", "verdict IN ('approve', 'reject')")
