"""Means of payment that were offered for an order after its own had been declined."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlmodel import Field, SQLModel

from models.order import TenderKind
from models.tables.base import moment, one_of
from models.tender import TenderState


class TenderRow(SQLModel, table=True):
    """One offered tender; ``number`` counts from 1 within the order, whose document's own tender is number 0.

    ``token`` is the payment provider's, or the code or account of a tender of ours; it stands here and nowhere else.
    ``request_id`` makes a repeated offer the same one.

    It is ``instead_of`` the part of the order that was declined (policies/tenders.py), and ``amount_minor`` is what it
    was asked for: ``first_hold``, the key of the first hold that it was tried for, may ask no more of it. Later ones go
    by what the order has become.
    """

    __tablename__ = "order_tenders"
    __table_args__ = (
        one_of("state", TenderState),
        CheckConstraint("number >= 1", name="number"),
        one_of("kind", TenderKind),
        CheckConstraint("instead_of >= 1", name="instead_of"),
        CheckConstraint("token <> ''", name="token"),
        Index("uq_order_tenders_request", "order_id", "request_id", unique=True),
        # Stored, and its order's run is not known to have heard of it: the sweeper's question.
        Index("ix_order_tenders_offered", "offered_at", postgresql_where="state = 'offered'"),
    )

    order_id: str = Field(primary_key=True, foreign_key="orders.order_id")
    number: int = Field(primary_key=True)
    kind: str
    token: str
    request_id: str
    state: str = TenderState.OFFERED
    offered_at: datetime = moment()
    offered_by: str
    instead_of: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    amount_minor: int | None = Field(default=None, sa_type=BigInteger)
    first_hold: str | None = None
