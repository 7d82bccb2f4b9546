"""What keeps orders from being sent as they are planned, plans that people set, and the runs that are to be told."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.rerouting import NoticeKind
from models.tables.base import moment, one_of


class NoticeRow(SQLModel, table=True):
    """A notice in force until ``ends_at`` or until it is lifted; wall time, whatever business clock orders go by.

    ``orders`` up to ``spread_to``, by id, are to be planned anew for it; ``spread_at`` once all are.
    """

    __tablename__ = "routing_notices"
    __table_args__ = (
        one_of("kind", NoticeKind),
        CheckConstraint("(kind = 'node') = (node IS NOT NULL)", name="node"),
        CheckConstraint("(kind = 'carrier') = (carrier IS NOT NULL)", name="carrier"),
        CheckConstraint("(kind = 'region') = (country IS NOT NULL)", name="region"),
        CheckConstraint("service IS NULL OR carrier IS NOT NULL", name="service"),
        CheckConstraint("prefix IS NULL OR country IS NOT NULL", name="prefix"),
        CheckConstraint("delay_days IS NULL OR (kind = 'region' AND delay_days > 0)", name="delay_days"),
        CheckConstraint("(lifted_at IS NULL) = (lifted_by IS NULL)", name="lifted"),
        Index("uq_routing_notices_request", "request_id", unique=True),
        Index("ix_routing_notices_in_force", "notice_id", postgresql_where="lifted_at IS NULL"),
        Index("ix_routing_notices_unspread", "notice_id", postgresql_where="spread_at IS NULL"),
    )

    notice_id: int | None = Field(
        default=None, sa_type=BigInteger, primary_key=True, sa_column_args=[Identity(always=True)]
    )
    request_id: str
    kind: str
    node: str | None = None
    carrier: str | None = None
    service: str | None = None
    country: str | None = None
    prefix: str | None = None
    delay_days: int | None = None
    reason: str
    actor: str
    posted_at: datetime = moment()
    ends_at: datetime | None = moment(default=None)
    lifted_at: datetime | None = moment(default=None)
    lifted_by: str | None = None
    orders: int = 0
    spread_to: str | None = None
    spread_at: datetime | None = moment(default=None)


class SetPlanRow(SQLModel, table=True):
    """Where a person wants the units of an order to come from (a ``SetPlan``)."""

    __tablename__ = "set_plans"
    __table_args__ = (Index("uq_set_plans_request", "order_id", "request_id", unique=True),)

    set_plan_id: str = Field(primary_key=True)
    order_id: str = Field(foreign_key="orders.order_id")
    request_id: str
    actor: str
    wish: dict[str, Any] = Field(sa_type=JSONB)
    made_at: datetime = moment()


class PlanAgainRow(SQLModel, table=True):
    """An order whose run is to plan anew; ``told_at`` once it knows, or there is none any more to know."""

    __tablename__ = "plans_again"
    __table_args__ = (
        Index("uq_plans_again_event", "order_id", "event_id", unique=True),
        Index("ix_plans_again_untold", "plan_again_id", postgresql_where="told_at IS NULL"),
        Index("ix_plans_again_told", "told_at"),
    )

    plan_again_id: int | None = Field(
        default=None, sa_type=BigInteger, primary_key=True, sa_column_args=[Identity(always=True)]
    )
    order_id: str = Field(foreign_key="orders.order_id")
    event_id: str
    message: dict[str, Any] = Field(sa_type=JSONB)
    made_at: datetime = moment()
    told_at: datetime | None = moment(default=None)
