"""A fulfilment plan: which node ships what, with which carrier service, at what cost, promised for when."""

from pydantic import AwareDatetime, Field

from models.base import Contract
from models.money import Money


class PlannedLine(Contract):
    """``quantity`` units of an order line."""

    line_id: str
    sku: str
    quantity: int = Field(ge=1)


class PlannedShipment(Contract):
    """One parcel-worth: the lines that one node ships with one carrier service."""

    number: int = Field(ge=1)
    node: str
    carrier: str
    service: str
    lines: tuple[PlannedLine, ...]
    weight_g: int
    handling: Money
    freight: Money
    transit_days: int = Field(ge=0)
    promised_at: AwareDatetime


class Plan(Contract):
    """The router's answer, stored whole with its reasons. ``left_out``: what is to be planned later."""

    shipments: tuple[PlannedShipment, ...]
    split_penalty: Money
    cost: Money
    promised_at: AwareDatetime
    router: str
    reasons: tuple[str, ...] = ()
    left_out: tuple[PlannedLine, ...] = ()


class Unfillable(Contract):
    """No plan: what is missing, as an answer and never an exception.

    ``missing``: the units without which there would be a plan; empty where it is not for want of units.
    """

    reasons: tuple[str, ...]
    missing: tuple[PlannedLine, ...] = ()


class ShipmentRef(Contract):
    """A planned shipment as the workflow carries it: no lines, only what it decides by.

    ``amount`` is the shipment's share of the order's total; the shares, and that of what is left out, add up to it.
    """

    number: int
    node: str
    carrier: str
    service: str
    units: int
    amount: Money
    promised_at: AwareDatetime


class PlanSummary(Contract):
    """A stored plan as the workflow carries it. ``left_out``: units that are to be planned later."""

    plan_id: str
    shipments: tuple[ShipmentRef, ...]
    cost: Money
    goods_value: Money
    promised_at: AwareDatetime
    router: str
    left_out: int = 0
