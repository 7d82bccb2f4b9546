"""Amendments of orders: the documents after the one that came in."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.amendment import AmendmentState
from models.tables.base import moment, one_of


class AmendmentRow(SQLModel, table=True):
    """A version of an order's document, in force once it is applied; until then it may still change or be refused.

    Like ``intake`` it holds documents and parties: who erases a person there, erases it here. ``stated_by`` is the
    version whose charges somebody stated, which taxes and discounts follow. A trigger refuses to change what was
    decided, and of one version at most one other can be made.
    """

    __tablename__ = "order_amendments"
    __table_args__ = (
        one_of("state", AmendmentState),
        CheckConstraint("amendment_id = order_id || ':' || 'a' || number", name="amendment_id"),
        CheckConstraint(
            "base_version >= 1 AND base_version < number AND stated_by >= 1 AND stated_by <= number",
            name="versions",
        ),
        CheckConstraint("(state = 'proposed') = (decided_at IS NULL)", name="decided_at"),
        CheckConstraint("(state = 'refused') = (refusal IS NOT NULL)", name="refusal"),
        Index("uq_order_amendments_number", "order_id", "number", unique=True),
        Index("uq_order_amendments_request", "order_id", "request_id", unique=True),
        Index(
            "uq_order_amendments_base",
            "order_id",
            "base_version",
            unique=True,
            postgresql_where="state = 'applied'",
        ),
    )

    amendment_id: str = Field(primary_key=True)
    order_id: str = Field(foreign_key="orders.order_id")
    number: int
    base_version: int
    stated_by: int
    state: str = AmendmentState.PROPOSED
    request_id: str
    request_hash: str
    request: dict[str, Any] = Field(sa_type=JSONB)
    document: dict[str, Any] = Field(sa_type=JSONB)
    document_hash: str
    preview: dict[str, Any] = Field(sa_type=JSONB)
    refusal: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    created_at: datetime = moment()
    decided_at: datetime | None = moment(default=None)
