"""What the store shows of orders: typed, JSON-ready, without documents and parties."""

from typing import Any

from pydantic import AwareDatetime

from models.base import Contract
from models.journal import TimelineEntry
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import CustomerType
from models.review import ReviewTask
from models.states import OrderState, ShipmentState


class OrderSummary(Contract):
    """An order as lists show it."""

    order_id: str
    workflow_id: str
    channel: str
    external_id: str
    customer_type: CustomerType | None
    state: OrderState
    needs_review: bool
    total: Money
    goods: Money
    line_count: int
    unit_count: int
    ship_country: str
    placed_at: AwareDatetime
    promised_at: AwareDatetime | None
    plan_id: str | None
    version: int
    created_at: AwareDatetime
    updated_at: AwareDatetime
    closed_at: AwareDatetime | None
    exit_reason: str | None


class LineView(Contract):
    """A line of goods."""

    line_id: str
    sku: str
    description: str
    quantity: int
    unit_price: Money


class ShipmentView(Contract):
    """A shipment with where it stands."""

    shipment_id: str
    order_id: str
    number: int
    state: ShipmentState
    node: str
    carrier: str
    service: str
    units: int
    amount: Money
    promised_at: AwareDatetime
    tracking: str | None
    handed_over_at: AwareDatetime | None
    delivered_at: AwareDatetime | None
    late: bool
    version: int


class PaymentView(Contract):
    """A movement of money that was intended, and what became of it."""

    key: str
    kind: PaymentKind
    state: OperationState
    shipment_id: str | None
    amount: Money
    provider_ref: str | None
    cause: str | None
    intended_at: AwareDatetime
    answered_at: AwareDatetime | None


class LateEventView(Contract):
    """A neighbour's event that found no run to take it, kept as it came."""

    event_id: str
    workflow_id: str
    kind: str
    event: dict[str, Any]
    received_at: AwareDatetime


class MoneyTotals(Contract):
    """An order's money. ``held``: what authorisations still hold; ``unclear``: movements without an answer yet."""

    authorised: Money
    captured: Money
    refunded: Money
    voided: Money
    held: Money
    unclear: int = 0


class OrderView(OrderSummary):
    """An order with everything that belongs to it.

    ``document_version`` is that of the document in force: 1 as it came in, then the number of the last amendment.
    """

    document_version: int = 1
    document_hash: str
    source: str
    received_at: AwareDatetime
    lines: tuple[LineView, ...]
    shipments: tuple[ShipmentView, ...]
    reviews: tuple[ReviewTask, ...]
    payments: tuple[PaymentView, ...]
    money: MoneyTotals
    late_events: tuple[LateEventView, ...]


class Page(Contract):
    """A page of orders, newest first. ``next_cursor`` None: there are no more."""

    orders: tuple[OrderSummary, ...]
    next_cursor: str | None = None


class ReviewPage(Contract):
    """A page of review tasks, oldest first. ``next_cursor`` None: there are no more."""

    reviews: tuple[ReviewTask, ...]
    next_cursor: str | None = None


class TimelineView(TimelineEntry):
    """A timeline entry with its place in the order of writing."""

    position: int


class OpenOrder(Contract):
    """An order that is not finished, for comparing with what Temporal runs."""

    order_id: str
    workflow_id: str
    state: OrderState
    started: bool
    open_reviews: int
