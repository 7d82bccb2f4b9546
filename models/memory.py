"""What a running order or shipment remembers: one serialisable object each, handed on when the run continues as new.

Mutable, unlike every contract: it is the run's own notebook and nobody else's.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from models.clock import BusinessClock
from models.effects import (
    ApplyAmendment,
    Authorisation,
    CancelPick,
    Captured,
    Label,
    Notify,
    OrderFacts,
    PickRequested,
    ReleaseReservation,
    RiskAssessment,
    VoidAuthorisation,
    VoidLabel,
)
from models.journal import TimelineEntry
from models.messages import (
    AmendAnswer,
    AmendOrder,
    Avoided,
    CancelAnswer,
    CancelOrder,
    CarrierEvent,
    DecideReview,
    DecisionAnswer,
    PlanAgain,
    Recall,
    RefusedShipment,
    ShipmentProgress,
    WmsEvent,
)
from models.money import Money
from models.plan import PlanSummary, ShipmentRef
from models.review import ReviewTask
from models.states import OrderState, ShipmentState

Undo = VoidAuthorisation | ReleaseReservation | CancelPick | VoidLabel


class CaseMemory(BaseModel):
    """What orders and shipments have in common."""

    clock: BusinessClock | None = None
    version: int = 0
    entry_count: int = 0
    pending: list[TimelineEntry] = Field(default_factory=list)
    pending_reviews: list[ReviewTask] = Field(default_factory=list)
    projection_pending: bool = False
    undo: list[Undo] = Field(default_factory=list)
    attempts: dict[str, int] = Field(default_factory=dict)
    review_count: int = 0
    open_review: ReviewTask | None = None
    open_purpose: str | None = None
    decision: DecideReview | None = None
    answers: dict[str, DecisionAnswer] = Field(default_factory=dict)
    events_seen: list[str] = Field(default_factory=list)
    failed_step: str | None = None
    by_hand: dict[str, Any] | None = None
    # Keys of effects that a person did in our place: only a person can undo them.
    hand_made: list[str] = Field(default_factory=list)
    cancel: CancelOrder | None = None
    deadlines: dict[str, datetime] = Field(default_factory=dict)
    unsent: list[Notify] = Field(default_factory=list)
    told: list[str] = Field(default_factory=list)


class StartedShipment(BaseModel):
    """A shipment that was started by an earlier plan and goes on as it is, with what is reserved under a key."""

    plan_id: str
    ref: ShipmentRef
    reservation_key: str = ""


class OrderMemory(CaseMemory):
    """An order's run.

    ``plan`` is the plan that is being made or carried out; ``earlier`` are shipments of plans before it that go on.
    """

    order_id: str
    state: OrderState = OrderState.RECEIVED
    paused_in: OrderState | None = None
    facts: OrderFacts | None = None
    assessment: RiskAssessment | None = None
    authorisation: Authorisation | None = None
    authorisation_key: str | None = None
    asking_hold: str | None = None
    # The authorisations that were made, by key, and which of them pays for each shipment that was started.
    holds: dict[str, str] = Field(default_factory=dict)
    draws_on: dict[int, str] = Field(default_factory=dict)
    # Means of payment offered after a decline: the newest, the one in use (0 is the document's), and what was declined.
    offered: int = 0
    tender: int = 0
    declined: Authorisation | None = None
    declined_at: datetime | None = None
    planned_at: datetime | None = None
    plan: PlanSummary | None = None
    reservation_key: str | None = None
    reserved: bool = False
    released: bool = False
    passed_gates: list[str] = Field(default_factory=list)
    fruitless_plans: int = 0
    shortages: int = 0
    substitutions: int = 0
    cancel_answer: CancelAnswer | None = None
    cancel_sent: bool = False
    cancel_unheard: list[int] = Field(default_factory=list)
    shipments: dict[int, ShipmentProgress] = Field(default_factory=dict)
    silent: list[int] = Field(default_factory=list)
    earlier: list[StartedShipment] = Field(default_factory=list)
    # What asks for another plan: an amendment, or shipments whose units the warehouse does not hold after all.
    amendment: AmendOrder | None = None
    stock_lost: list[int] = Field(default_factory=list)
    stock_arrived: bool = False
    again: list[PlanAgain] = Field(default_factory=list)
    # What it is not planned with, how often it was planned anew of itself, and the plan that a person has set.
    avoided: list[Avoided] = Field(default_factory=list)
    reroutes: int = 0
    may_reroute: int = 0
    set_plan: str | None = None
    # Shipments that were asked to stop for it and have not answered yet.
    stopping: list[int] = Field(default_factory=list)
    deaf: list[int] = Field(default_factory=list)
    # Those that were ever asked: the customer hears of the change, not of each.
    called_back: list[int] = Field(default_factory=list)
    last_number: int = 0
    rest_dropped: bool = False
    refusals: list[ApplyAmendment] = Field(default_factory=list)
    amend_answers: dict[str, AmendAnswer] = Field(default_factory=dict)
    leaving_to: OrderState | None = None
    leaving_because: str = ""
    leaving_told: str = ""
    books_accepted: bool = False
    captured: Money | None = None
    refunded: Money | None = None


class ShipmentMemory(CaseMemory):
    """A shipment's run."""

    state: ShipmentState = ShipmentState.PLANNED
    paused_in: ShipmentState | None = None
    pick: PickRequested | None = None
    pick_key: str | None = None
    pick_again: bool = False
    old_picks: list[str] = Field(default_factory=list)
    picked: WmsEvent | None = None
    pick_problem: WmsEvent | None = None
    label: Label | None = None
    label_key: str | None = None
    collected: CarrierEvent | None = None
    furthest: ShipmentState | None = None
    delivered: CarrierEvent | None = None
    trouble: CarrierEvent | None = None
    too_late_to_cancel: bool = False
    capture: Captured | None = None
    # The authorisation to take the money from, where it is not the one that the run began with.
    authorisation_id: str | None = None
    hold_expired: str | None = None
    goes_on: str | None = None
    # Called off, its units stay reserved: the order plans with them, and gives them back where it does not.
    units_left_to_order: bool = False
    # The request of an order that wants it unpacked, as some of its goods are not there.
    unpacking: str | None = None
    refund_cause: str | None = None
    refunded: Money | None = None
    late: bool = False
    given_up: bool = False
    damaged: bool = False
    recall: Recall | None = None
    returned: CarrierEvent | None = None
    kept: bool = False
    # What a neighbour refused it, while its order is to plan it anew; and how often that happened.
    refused: RefusedShipment | None = None
    refusals: int = 0
    reported: int = -1
    roll_calls: int = 0
