"""The policy document and its versions."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.policy import PolicyState
from models.tables.base import moment, one_of


class PolicyRow(SQLModel, table=True):
    """A version of the policy. What it says is never changed; a trigger sees to it, and to what may become of it.

    ``base_version`` was in force when it was proposed: approved later it would undo what came in between. ``backtest``
    is the last that was made of it before it was decided.

    Whoever proposed it cannot be the one who approves it, also not by SQL.
    """

    __tablename__ = "policies"
    __table_args__ = (
        one_of("state", PolicyState),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint("(state = 'proposed') = (decided_at IS NULL)", name="decided_at"),
        CheckConstraint("(decided_at IS NULL) = (decided_by IS NULL)", name="decided_by"),
        CheckConstraint("(state = 'replaced') = (replaced_at IS NOT NULL)", name="replaced_at"),
        CheckConstraint(
            "state NOT IN ('active', 'replaced') OR lower(btrim(decided_by)) <> lower(btrim(proposed_by))",
            name="two_people",
        ),
        Index("uq_policies_active", "state", unique=True, postgresql_where="state = 'active'"),
        Index("uq_policies_request", "request_id", unique=True),
    )

    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    state: str = PolicyState.PROPOSED
    request_id: str
    base_version: int
    document: dict[str, Any] = Field(sa_type=JSONB)
    document_hash: str
    reason: str
    proposed_by: str
    proposed_at: datetime = moment()
    decided_by: str | None = None
    decided_at: datetime | None = moment(default=None)
    decided_because: str | None = None
    replaced_at: datetime | None = moment(default=None)
    backtest: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
