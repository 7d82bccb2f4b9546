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
    """One parcel-worth: the lines that one node ships with one carrier service.

    ``held_until``: it is not picked before, so that it does not come before it is wanted; None: at once.
    ``distance_km``: from the node to about where the order goes, over the ground; None where either is not known.
    ``look_ahead`` and ``markdown``: its part of the plan's.
    """

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
    held_until: AwareDatetime | None = None
    distance_km: int | None = Field(default=None, ge=0)
    look_ahead: Money | None = None
    markdown: Money | None = None


class Proof(Contract):
    """How far a plan is proven to be the cheapest: nothing that keeps to the rules costs less than ``bound_minor``.

    ``objective_minor`` is what was made as small as possible: the cost and what the policy puts on top, rounded up.
    ``fallback``: the quick plan, because no better one was found in time.
    """

    method: str
    proven: bool
    objective_minor: int
    bound_minor: int
    fallback: bool = False


class Alternative(Contract):
    """Another way to ship the same, which the plan was preferred to: what it costs, or why it cannot be.

    ``look_ahead`` and ``markdown`` as in the plan.
    """

    what: str
    cost: Money | None = None
    promised_at: AwareDatetime | None = None
    why_not: str | None = None
    look_ahead: Money | None = None
    markdown: Money | None = None


class PlanLimits(Contract):
    """What a plan may come to before a person must see it, where the policy says otherwise than what is built in.

    ``newcomers``: what of it is new, and for that reason to be seen.
    """

    policy: str
    max_shipments: int
    max_cost_percent: int
    cost_floor_minor: int
    newcomers: tuple[str, ...] = ()


class Plan(Contract):
    """The router's answer, stored whole with its reasons. ``left_out``: what is to be planned later.

    ``late``: what the policy puts on top of the cost because it is late; no money of anybody's. ``late_risk``:
    that parcels may come later than promised, as carriers did before. ``look_ahead``: what the units are worth where
    they lie, to orders that are still to come. ``markdown``: what is credited, below zero, for units of which too many
    lie there. All four are no money of anybody's. ``policy``: the version
    that it was made by. ``promise``: the promise whose plan it is. ``set_by``: who has set it by hand.
    """

    shipments: tuple[PlannedShipment, ...]
    split_penalty: Money
    cost: Money
    promised_at: AwareDatetime
    router: str
    reasons: tuple[str, ...] = ()
    policy: str | None = None
    promise: str | None = None
    set_by: str | None = None
    left_out: tuple[PlannedLine, ...] = ()
    late: Money | None = None
    late_risk: Money | None = None
    look_ahead: Money | None = None
    markdown: Money | None = None
    proof: Proof | None = None
    alternatives: tuple[Alternative, ...] = ()


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
    held_until: AwareDatetime | None = None


class PlanSummary(Contract):
    """A stored plan as the workflow carries it. ``left_out``: units that are to be planned later.

    ``limits``: of the policy that it was made by; None: as built in. ``reroutes``: how often the order may be planned
    anew without a person. ``set_by``: who has set it by hand.
    """

    plan_id: str
    shipments: tuple[ShipmentRef, ...]
    cost: Money
    goods_value: Money
    promised_at: AwareDatetime
    router: str
    left_out: int = 0
    limits: PlanLimits | None = None
    reroutes: int = 0
    set_by: str | None = None
