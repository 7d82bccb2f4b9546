"""Orders as they came in (intake) and as they stand (the projections that lists and the console read)."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.order import CustomerType
from models.states import OrderState, ShipmentState
from models.tables.base import Stamped, moment, not_negative, one_of


class IntakeState(StrEnum):
    """Whether the workflow of an accepted document is known to have been started."""

    ACCEPTED = "accepted"
    STARTED = "started"


class IntakeRow(SQLModel, table=True):
    """A document as it was accepted. Committed before its workflow starts, so nothing is lost in between.

    Documents and parties are here and in ``order_amendments``, and nowhere else: erase a person there, and they are
    gone.
    """

    __tablename__ = "intake"
    __table_args__ = (
        one_of("state", IntakeState),
        CheckConstraint("order_id = channel || ':' || external_id", name="order_id"),
        CheckConstraint("(state = 'started') = (started_at IS NOT NULL)", name="started_at"),
        not_negative("tries"),
        # The sweeper's question: accepted and never started, oldest first.
        Index("ix_intake_unstarted", "received_at", postgresql_where="state = 'accepted'"),
    )

    order_id: str = Field(primary_key=True)
    channel: str
    external_id: str
    document_hash: str
    document: dict[str, Any] = Field(sa_type=JSONB)
    source: str
    state: str = IntakeState.ACCEPTED
    speed: float = 1.0
    business_start: datetime | None = moment(default=None)
    received_at: datetime = moment()
    started_at: datetime | None = moment(default=None)
    # How often the sweeper has taken the row up since it was accepted or started, and when it may do so again.
    tries: int = 0
    try_at: datetime | None = moment(default=None)
    # Of the request that it came with (W3C Trace Context); a run that is started later belongs to the same trace.
    traceparent: str | None = None


class OrderRow(Stamped, table=True):
    """Where an order stands. ``version`` only grows; 0 is the intake's own entry.

    ``document_version`` is in force: 1 is the document that came in, others are amendments' numbers.
    """

    __tablename__ = "orders"
    __table_args__ = (
        one_of("state", OrderState),
        one_of("customer_type", CustomerType),
        not_negative("line_count", "unit_count", "version"),
        CheckConstraint("min_shelf_life_days BETWEEN 0 AND 3650", name="min_shelf_life_days"),
        Index("ix_orders_created", "created_at", "order_id"),
        Index("ix_orders_state", "state", "created_at", "order_id"),
        Index("ix_orders_channel", "channel", "created_at", "order_id"),
        Index("ix_orders_needs_review", "created_at", "order_id", postgresql_where="needs_review"),
    )

    order_id: str = Field(primary_key=True, foreign_key="intake.order_id")
    workflow_id: str = Field(unique=True)
    channel: str
    external_id: str
    customer_type: str | None = None
    customer_tier: str | None = None
    state: str
    needs_review: bool = False
    currency: str
    total_minor: int = Field(sa_type=BigInteger)
    goods_minor: int = Field(sa_type=BigInteger)
    line_count: int
    unit_count: int = Field(sa_type=BigInteger)
    ship_country: str
    placed_at: datetime = moment()
    promised_at: datetime | None = moment(default=None)
    plan_id: str | None = None
    version: int = Field(default=0, sa_type=BigInteger)
    closed_at: datetime | None = moment(default=None)
    exit_reason: str | None = None
    # The run that moves the order, with those it continued as and those it was reset to. Nobody else's writes count.
    first_run_id: str | None = None
    document_version: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    # What lots the order may get is decided in the database.
    min_shelf_life_days: int | None = None


class OrderLineRow(SQLModel, table=True):
    """Goods asked for, in the order of the document (``position`` from 1)."""

    __tablename__ = "order_lines"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity"),
        not_negative("unit_price_minor"),
        Index("ix_order_lines_sku", "sku"),
    )

    order_id: str = Field(primary_key=True, foreign_key="orders.order_id")
    line_id: str = Field(primary_key=True)
    position: int
    sku: str
    description: str = ""
    quantity: int
    unit_price_minor: int = Field(sa_type=BigInteger)


class PlanRow(SQLModel, table=True):
    """A router's answer, whole, once per attempt; ``summary`` is what the workflow was told of it.

    ``document_version`` is that of the document it was made for; None: the one that came in. ``problem`` is all that
    the router looked at; None: it was made before that was kept.
    """

    __tablename__ = "plans"
    __table_args__ = (Index("uq_plans_attempt", "order_id", "attempt", unique=True),)

    plan_id: str = Field(primary_key=True)
    order_id: str = Field(foreign_key="orders.order_id")
    attempt: int
    plan: dict[str, Any] = Field(sa_type=JSONB)
    summary: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = moment()
    document_version: int | None = None
    problem: dict[str, Any] | None = Field(default=None, sa_type=JSONB)


class ShipmentRow(Stamped, table=True):
    """Where a shipment stands. ``version`` only grows."""

    __tablename__ = "shipments"
    __table_args__ = (
        one_of("state", ShipmentState),
        not_negative("amount_minor", "units"),
        Index("uq_shipments_number", "order_id", "number", unique=True),
        Index("ix_shipments_state", "state"),
        # Parcels that our books gave up lately: see activities/store/astray.py.
        Index("ix_shipments_given_up", "updated_at", postgresql_where="state IN ('cancelled', 'lost')"),
    )

    shipment_id: str = Field(primary_key=True)
    order_id: str = Field(foreign_key="orders.order_id")
    number: int
    state: str
    node: str
    carrier: str
    service: str
    units: int = Field(sa_type=BigInteger)
    amount_minor: int = Field(sa_type=BigInteger)
    currency: str
    promised_at: datetime = moment()
    tracking: str | None = Field(default=None, index=True)
    handed_over_at: datetime | None = moment(default=None)
    delivered_at: datetime | None = moment(default=None)
    late: bool = False
    version: int = Field(sa_type=BigInteger)
