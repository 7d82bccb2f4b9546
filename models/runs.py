"""What starts an order's or a shipment's workflow, and what it leaves behind when it ends."""

from typing import Any

from pydantic import AwareDatetime, Field
from pydantic.json_schema import SkipJsonSchema

from models.base import Contract
from models.clock import BusinessClock, ClockStart
from models.memory import OrderMemory, ShipmentMemory
from models.money import Money
from models.states import OrderState, ShipmentState


class OrderRun(Contract):
    """Input of OrderWorkflow: a stored document by id and hash, or (from a foreign client only) a draft inline.

    A foreign client sends ``{"draft": {...}}`` with workflow id ``order:{channel}:{external_id}``.
    """

    order_id: str | None = None
    document_hash: str | None = None
    draft: dict[str, Any] | None = None
    clock: ClockStart = Field(default_factory=ClockStart)
    # Ours alone, set when a run continues as new; left out of the published schema.
    memory: SkipJsonSchema[OrderMemory | None] = None


class OrderResult(Contract):
    """Result of OrderWorkflow."""

    order_id: str
    state: OrderState
    captured: Money | None = None
    refunded: Money | None = None
    shipments: int = 0


class ShipmentRun(Contract):
    """Input of ShipmentWorkflow."""

    shipment_id: str
    order_id: str
    number: int
    plan_id: str
    node: str
    carrier: str
    service: str
    units: int
    amount: Money
    authorisation_id: str
    reservation_key: str
    planned_at: AwareDatetime
    promised_at: AwareDatetime
    clock: BusinessClock
    # Ours alone, set when a run continues as new; left out of the published schema.
    memory: SkipJsonSchema[ShipmentMemory | None] = None


class ShipmentResult(Contract):
    """Result of ShipmentWorkflow."""

    shipment_id: str
    state: ShipmentState
    captured: Money | None = None
    refunded: Money | None = None
