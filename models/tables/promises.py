"""Promises before there are orders."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.tables.base import moment


class PromiseRow(SQLModel, table=True):
    """A plan for a cart, with all that the router looked at, as plans of orders have it. It holds no personal data.

    One order takes it, or none; ``not_taken`` says why the order that named it was planned otherwise. ``problem`` is
    empty once the order's plan has it.
    """

    __tablename__ = "promises"
    __table_args__ = (
        CheckConstraint("(order_id IS NULL) = (taken_at IS NULL)", name="taken_at"),
        CheckConstraint("order_id IS NULL OR not_taken IS NULL", name="not_taken"),
        Index("uq_promises_request", "request_id", unique=True),
        Index("ix_promises_order", "order_id"),
        Index("ix_promises_untaken", "valid_until", postgresql_where="order_id IS NULL"),
        Index(
            "ix_promises_heavy",
            "taken_at",
            postgresql_where="order_id IS NOT NULL AND problem <> '{}'::jsonb",
        ),
    )

    promise_id: str = Field(primary_key=True)
    request_id: str
    request_hash: str
    channel: str
    plan: dict[str, Any] = Field(sa_type=JSONB)
    problem: dict[str, Any] = Field(sa_type=JSONB)
    made_at: datetime = moment()
    valid_until: datetime = moment()
    order_id: str | None = Field(default=None, foreign_key="orders.order_id")
    taken_at: datetime | None = moment(default=None)
    not_taken: str | None = None
