"""Reconciliation: neighbours' statements as we read them, runs, and every difference that was found."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.reconciliation import Area, Comparison, DifferenceKind, DifferenceState, LineState, Rule, RunState
from models.tables.base import moment, not_negative, one_of


class StatementLineRow(SQLModel, table=True):
    """A line of a neighbour's statement. It is theirs: we copy it, and change nothing in it."""

    __tablename__ = "statement_lines"
    __table_args__ = (
        one_of("state", LineState),
        Index("ix_statement_lines_reference", "source", "reference"),
        # What still holds money: few, and looked at in every run.
        Index("ix_statement_lines_held", "reference", postgresql_where="held_minor > 0"),
    )

    source: str = Field(primary_key=True)
    line_id: str = Field(primary_key=True)
    kind: str
    key: str | None = None
    reference: str
    parent_id: str | None = None
    state: str
    amount_minor: int | None = Field(default=None, sa_type=BigInteger)
    currency: str | None = None
    held_minor: int | None = Field(default=None, sa_type=BigInteger)
    in_use: bool = False
    at: datetime = moment()
    changed_at: datetime = moment()
    read_at: datetime = moment()


class DifferenceRow(SQLModel, table=True):
    """Two sides that did not agree, and what became of it. ``wished_by``: who approved that it is mended."""

    __tablename__ = "reconciliation_differences"
    __table_args__ = (
        one_of("comparison", Comparison),
        one_of("kind", DifferenceKind),
        one_of("state", DifferenceState),
        one_of("rule", Rule),
        not_negative("times"),
        Index(
            "ix_reconciliation_differences_open", "comparison", "subject", postgresql_where="state = 'open'"
        ),
        Index("ix_reconciliation_differences_subject", "comparison", "subject"),
        Index("ix_reconciliation_differences_seen", "first_seen_at", "key"),
        Index("ix_reconciliation_differences_order", "order_id"),
    )

    key: str = Field(primary_key=True)
    comparison: str
    kind: str
    subject: str
    order_id: str | None = None
    what: str
    ours: dict[str, Any] = Field(sa_type=JSONB)
    theirs: dict[str, Any] = Field(sa_type=JSONB)
    difference: dict[str, Any] = Field(sa_type=JSONB)
    state: str
    first_seen_at: datetime = moment()
    last_seen_at: datetime = moment()
    opened_at: datetime = moment()
    # How often it came, after it had gone: each time is a new entry in the timeline, and a new task.
    times: int = 1
    task_id: str | None = None
    rule: str | None = None
    settled_by: str | None = None
    settled_why: str | None = None
    settled_at: datetime | None = moment(default=None)
    wished_by: str | None = None
    wished_why: str | None = None


class ReconciliationRunRow(SQLModel, table=True):
    """A run of the reconciliation, by its workflow id. ``number`` orders all of them."""

    __tablename__ = "reconciliation_runs"
    __table_args__ = (
        one_of("area", Area),
        one_of("state", RunState),
        not_negative("checked", "differing", "under_way", "healed", "opened", "gone", "left_open"),
        Index("ix_reconciliation_runs_area", "area", "number"),
    )

    run_id: str = Field(primary_key=True)
    number: int | None = Field(
        default=None, sa_type=BigInteger, nullable=False, sa_column_args=[Identity(always=True)]
    )
    area: str
    state: str
    since: datetime = moment()
    started_at: datetime = moment()
    ended_at: datetime | None = moment(default=None)
    checked: int = Field(default=0, sa_type=BigInteger)
    differing: int = Field(default=0, sa_type=BigInteger)
    under_way: int = Field(default=0, sa_type=BigInteger)
    healed: int = Field(default=0, sa_type=BigInteger)
    opened: int = Field(default=0, sa_type=BigInteger)
    gone: int = Field(default=0, sa_type=BigInteger)
    left_open: int = Field(default=0, sa_type=BigInteger)
    failure: str | None = None
