"""Reconciliation: neighbours' statements, runs, and the differences that were found."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0012b_warehouse"
branch_labels = None
depends_on = None

_KINDS = (
    "ours_only", "theirs_only", "amount_differs", "ledger_differs", "twice_theirs", "held_after_end",
    "held_only_ours", "answer_lost",
    "label_of_cancelled", "label_unknown", "label_answer_lost", "label_cost_differs", "left_without_label",
    "held_for_ended", "held_for_unknown", "open_without_reservation", "paid_without_stock", "reserved_differs",
)  # fmt: skip
_COUNTS = ("checked", "differing", "under_way", "healed", "opened", "gone", "left_open")


def _time(name: str, *, nullable: bool = False) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> "sa.Column[object]":
    return sa.Column(name, sa.String(), nullable=nullable)


def _one_of(table: str, column: str, *values: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{column}"))


def upgrade() -> None:
    lines = "statement_lines"
    op.create_table(
        lines,
        _text("source"),
        _text("line_id"),
        _text("kind"),
        _text("key", nullable=True),
        _text("reference"),
        _text("parent_id", nullable=True),
        _text("state"),
        sa.Column("amount_minor", sa.BigInteger(), nullable=True),
        _text("currency", nullable=True),
        sa.Column("held_minor", sa.BigInteger(), nullable=True),
        sa.Column("in_use", sa.Boolean(), nullable=False),
        _time("at"),
        _time("changed_at"),
        _time("read_at"),
        _one_of(lines, "state", "done", "undone", "declined"),
        sa.PrimaryKeyConstraint("source", "line_id", name=op.f(f"pk_{lines}")),
    )
    op.create_index("ix_statement_lines_reference", lines, ["source", "reference"])
    op.create_index("ix_statement_lines_held", lines, ["reference"], postgresql_where="held_minor > 0")

    found = "reconciliation_differences"
    op.create_table(
        found,
        _text("key"),
        _text("comparison"),
        _text("kind"),
        _text("subject"),
        _text("order_id", nullable=True),
        _text("what"),
        sa.Column("ours", JSONB(), nullable=False),
        sa.Column("theirs", JSONB(), nullable=False),
        sa.Column("difference", JSONB(), nullable=False),
        _text("state"),
        _time("first_seen_at"),
        _time("last_seen_at"),
        _time("opened_at"),
        sa.Column("times", sa.Integer(), nullable=False),
        _text("task_id", nullable=True),
        _text("rule", nullable=True),
        _text("settled_by", nullable=True),
        _text("settled_why", nullable=True),
        _time("settled_at", nullable=True),
        _text("wished_by", nullable=True),
        _text("wished_why", nullable=True),
        _one_of(found, "comparison", "money", "labels", "reservations", "stock"),
        _one_of(found, "kind", *_KINDS),
        _one_of(found, "state", "open", "healed", "accepted", "resolved"),
        _one_of(found, "rule", "release_units", "void_label", "void_hold", "write_down_answer", "gone"),
        sa.CheckConstraint("times >= 0", name=op.f(f"ck_{found}_not_negative")),
        sa.PrimaryKeyConstraint("key", name=op.f(f"pk_{found}")),
    )
    op.create_index(
        "ix_reconciliation_differences_open",
        found,
        ["comparison", "subject"],
        postgresql_where="state = 'open'",
    )
    op.create_index("ix_reconciliation_differences_subject", found, ["comparison", "subject"])
    op.create_index("ix_reconciliation_differences_seen", found, ["first_seen_at", "key"])
    op.create_index("ix_reconciliation_differences_order", found, ["order_id"])

    runs = "reconciliation_runs"
    op.create_table(
        runs,
        _text("run_id"),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _text("area"),
        _text("state"),
        _time("since"),
        _time("started_at"),
        _time("ended_at", nullable=True),
        *(sa.Column(count, sa.BigInteger(), nullable=False) for count in _COUNTS),
        _text("failure", nullable=True),
        _one_of(runs, "area", "money", "stock", "labels"),
        _one_of(runs, "state", "running", "done", "failed"),
        sa.CheckConstraint(
            " AND ".join(f"{count} >= 0" for count in _COUNTS), name=op.f(f"ck_{runs}_not_negative")
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f(f"pk_{runs}")),
    )
    op.create_index("ix_reconciliation_runs_area", runs, ["area", "number"])


def downgrade() -> None:
    op.drop_table("reconciliation_runs")
    op.drop_table("reconciliation_differences")
    op.drop_table("statement_lines")
