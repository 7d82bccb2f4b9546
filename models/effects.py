"""What goes into each step of a workflow and what comes out: one frozen object each way.

Documents and parties stay in PostgreSQL; these carry ids, versions, amounts and decisions. Every effect's ``key`` is
its idempotency key, derived from the workflow and the same on every retry.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, Field

from models.base import Contract
from models.errors import Problem
from models.journal import Carried
from models.messages import AmendOrder, Avoided, CarrierEvent, MissingUnits, SaidRefusal, WmsEvent
from models.money import Money
from models.order import CustomerType
from models.plan import PlanSummary
from models.review import Flag, Verdict

# What a person did instead of us, in the words of the step's own answer; the neighbour is then not asked at all.
ByHand = dict[str, Any] | None


class Nothing(Contract):
    """The answer of a step that has nothing to say but "done"."""


# --- orders ---
class ValidateOrder(Contract):
    """Check the stored document, or store the inline draft of a foreign client first.

    ``draft`` is unchecked JSON: a stranger's mistakes must end as a rejection that lists them, not as a stuck run.
    ``problems`` are those of the start itself, found by ``OrderRun.understood``. ``first_run_id`` says whose run asks.
    """

    order_id: str
    workflow_id: str
    first_run_id: str | None = None
    draft: Any = None
    problems: tuple[Problem, ...] = ()
    carried: Carried = Carried()


class OrderFacts(Contract):
    """What the workflow needs to know of the document."""

    order_id: str
    document_hash: str
    channel: str
    customer_type: CustomerType
    total: Money
    goods: Money
    line_count: int
    unit_count: int
    max_line_quantity: int
    ship_country: str
    placed_at: AwareDatetime
    promise_by: AwareDatetime | None = None


class Validation(Contract):
    """The facts of an acceptable document, or every problem of one that is not."""

    facts: OrderFacts | None = None
    problems: tuple[Problem, ...] = ()


class KeptShipment(Contract):
    """A shipment of an earlier plan that goes on as it is."""

    plan_id: str
    number: int


class ApplyAmendment(Contract):
    """Make a proposed amendment the order's document, or write down why it is not.

    ``kept`` are the shipments that go on as they are, with their ``kept_amount``: it must leave their units be.
    ``refused``: the run has refused it already (a declined authorisation, say).
    """

    order_id: str
    amendment_id: str
    kept: tuple[KeptShipment, ...] = ()
    kept_amount: Money
    refused: Problem | None = None
    carried: Carried = Carried()


class AmendmentApplied(Contract):
    """The facts of the new document and what is left to plan of it; or why it is refused, and nothing has changed."""

    facts: OrderFacts | None = None
    units_left: int = 0
    refusal: Problem | None = None


class AssessOrder(Contract):
    """Apply the risk rules to the stored document."""

    order_id: str
    carried: Carried = Carried()


class RiskDecision(StrEnum):
    """What the rules decide. Models will advise here later; rules and thresholds keep deciding."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    REVIEW = "review"
    REJECT = "reject"


class RiskAssessment(Contract):
    """The rules' decision with every reason, and the versions that made it.

    ``recommended`` and ``recommendation`` are what a person who is asked should do, where that is more than to ask the
    customer whether the order is meant as it stands.
    """

    decision: RiskDecision
    flags: tuple[Flag, ...] = ()
    policy_version: str
    model_version: str | None = None
    score: float | None = None
    recommended: Verdict | None = None
    recommendation: str | None = None


class RecordProgress(Contract):
    """Write what is carried, nothing else: before a long wait, or to open or close a review."""

    order_id: str
    carried: Carried


class Patience(Contract):
    """How long the policy in force lets the review ``task_id`` wait before people are reminded and it is escalated."""

    task_id: str
    remind_after: timedelta
    escalate_after: timedelta


class Recorded(Contract):
    """What is carried is written. ``patience``: of a review that was opened with it, where the policy says so."""

    patience: Patience | None = None


# --- money ---
class AuthorisePayment(Contract):
    """Hold ``amount`` on the order's tender: the document's own, or the one offered later under number ``tender``.

    ``drawn``: what shipments that are not in ``amount`` still take out of earlier authorisations, by their ids.
    """

    order_id: str
    amount: Money
    key: str
    tender: int = 0
    drawn: dict[str, Money] = Field(default_factory=dict)
    carried: Carried = Carried()
    by_hand: ByHand = None


class Authorisation(Contract):
    """The provider's answer. A decline is an answer, not an error."""

    approved: bool
    authorisation_id: str | None = None
    amount: Money
    expires_at: AwareDatetime | None = None
    decline_code: str | None = None
    decline_is_final: bool = False


class VoidAuthorisation(Contract):
    """Give back whatever the authorisation made under ``authorisation_key`` still holds; nothing there is fine.

    ``by_hand``: a person has done it; it is only written down.
    """

    order_id: str
    authorisation_key: str
    key: str
    carried: Carried = Carried()
    by_hand: bool = False


class Voided(Contract):
    """How much was given back: zero when nothing was held."""

    amount: Money | None = None


class CapturePayment(Contract):
    """Take ``amount`` of the authorised money, for goods that were handed over."""

    order_id: str
    shipment_id: str
    authorisation_id: str
    amount: Money
    key: str
    carried: Carried = Carried()
    by_hand: ByHand = None


class Captured(Contract):
    """What was taken.

    ``expired``: nothing was, because the hold had run out: ``capture_id`` is empty and ``amount`` zero. That is final
    under this key, and nothing is held any more by that authorisation: ask for a new one, then capture out of it under
    another key. The shipment's units stay reserved until then.
    """

    capture_id: str
    amount: Money
    expired: bool = False


class RefundPayment(Contract):
    """Give captured money back, for a named cause."""

    order_id: str
    shipment_id: str
    capture_id: str
    amount: Money
    cause: str
    key: str
    carried: Carried = Carried()
    by_hand: ByHand = None


class Refunded(Contract):
    """What was given back."""

    refund_id: str
    amount: Money


class SettleOrder(Contract):
    """Void what is left of the authorisation, check the order's money, record its outcomes.

    ``carried`` is written before; ``closing`` (the order's final state) only when the money balances, or when a person
    has ``accepted`` that it does not.
    """

    order_id: str
    total: Money
    authorisation_key: str | None
    key: str
    carried: Carried = Carried()
    closing: Carried = Carried()
    accepted: bool = False


class ShortParcel(Contract):
    """A parcel that was paid in full and left without ``units`` of its goods, which cost ``amount``."""

    shipment_id: str
    number: int
    units: int
    capture_id: str
    amount: Money


class Settlement(Contract):
    """The order's money at the end. ``balanced``: nothing is held and what was kept is what the shipments justify.

    ``short``: parcels whose missing units have to be paid back first.
    """

    balanced: bool
    captured: Money
    refunded: Money
    voided: Money
    explanation: str = ""
    short: tuple[ShortParcel, ...] = ()


# --- routing and stock ---
class RouteOrder(Contract):
    """Choose nodes and services for the stored order. ``business_now`` is when the plan starts.

    Where shipments of earlier plans are ``kept`` the plan is for the rest alone: its shipments count from
    ``first_number``, and ``outstanding`` is the part of the order's total that they share. ``substitute``: what is
    short may be replaced, if policy and document agree. ``avoid``: what it is not planned with. ``set_plan``: the plan
    that a person has set, which is taken if it can be.
    """

    order_id: str
    attempt: int
    business_now: AwareDatetime
    kept: tuple[KeptShipment, ...] = ()
    first_number: int = 1
    outstanding: Money | None = None
    substitute: bool = False
    avoid: tuple[Avoided, ...] = ()
    set_plan: str | None = None
    carried: Carried = Carried()


class RouteAnswer(Contract):
    """A stored plan, or why there is none. ``substitution``: a stored amendment with which there would be one."""

    plan: PlanSummary | None = None
    unfillable: tuple[str, ...] = ()
    substitution: AmendOrder | None = None


class ReserveStock(Contract):
    """Reserve a stored plan's units: all of them or none. ``expires_at`` is wall time."""

    order_id: str
    plan_id: str
    key: str
    expires_at: AwareDatetime
    carried: Carried = Carried()


class Shortage(Contract):
    """A row that was short: how much was asked for and how much there was."""

    node: str
    sku: str
    requested: int
    available: int


class Reservation(Contract):
    """Reserved, or short of what."""

    reserved: bool
    shortages: tuple[Shortage, ...] = ()


class ReleaseReservation(Contract):
    """Free what was reserved under ``reservation_key`` and has not been shipped; nothing there is fine.

    With ``shipment_id`` only that shipment's units are freed.
    """

    order_id: str
    reservation_key: str
    shipment_id: str | None = None
    key: str
    carried: Carried = Carried()


# --- shipping ---
class RequestPick(Contract):
    """Ask the warehouse to pick a shipment of a stored plan."""

    order_id: str
    shipment_id: str
    plan_id: str
    number: int
    business_now: AwareDatetime
    key: str
    carried: Carried = Carried()
    by_hand: ByHand = None


class PickRequested(Contract):
    """The warehouse's answer; a refusal is an answer, not an error.

    ``refusal`` and ``missing`` as a ``WmsEvent`` has them.
    """

    accepted: bool
    pick_id: str | None = None
    reason: str = ""
    refusal: SaidRefusal = None
    missing: tuple[MissingUnits, ...] = ()


class CheckPick(Contract):
    """Ask the warehouse what became of a pick, in case that its own message was lost."""

    order_id: str
    shipment_id: str
    pick_key: str
    carried: Carried = Carried()


class PickProgress(Contract):
    """Everything that has happened to a pick so far, oldest first."""

    events: tuple[WmsEvent, ...] = ()


class CancelPick(Contract):
    """Call a pick off, whether or not the warehouse ever got it. ``by_hand``: a person has; it is only written down."""

    order_id: str
    shipment_id: str
    pick_key: str
    key: str
    carried: Carried = Carried()
    by_hand: bool = False


class BuyLabel(Contract):
    """Buy the carrier's label for a shipment of a stored plan."""

    order_id: str
    shipment_id: str
    plan_id: str
    number: int
    business_now: AwareDatetime
    key: str
    carried: Carried = Carried()
    by_hand: ByHand = None


class Label(Contract):
    """The carrier's answer; a refusal is an answer, not an error."""

    accepted: bool
    label_id: str | None = None
    tracking: str | None = None
    cost: Money | None = None
    reason: str = ""
    refusal: SaidRefusal = None


class TrackParcel(Contract):
    """Ask the carrier what it has seen of a parcel, in case that its own messages were lost."""

    order_id: str
    shipment_id: str
    label_key: str
    carried: Carried = Carried()


class ParcelProgress(Contract):
    """Everything that the carrier has seen of a parcel so far, oldest first."""

    events: tuple[CarrierEvent, ...] = ()


class VoidLabel(Contract):
    """Give a label back, whether or not the carrier ever issued it.

    Not undone: the parcel is already with the carrier. ``by_hand``: a person has done it; it is only written down.
    """

    order_id: str
    shipment_id: str
    label_key: str
    key: str
    carried: Carried = Carried()
    by_hand: bool = False


class InterceptParcel(Contract):
    """Ask the carrier to bring back the parcel with the label bought under ``label_key``."""

    order_id: str
    shipment_id: str
    label_key: str
    business_now: AwareDatetime
    key: str
    carried: Carried = Carried()


class Interception(Contract):
    """The carrier's answer: it brings the parcel back, or why it cannot. It is back only when a scan says so."""

    accepted: bool
    reason: str = ""


class Undone(Contract):
    """Answer of a compensation: ``undone`` False means that it was too late, with the reason."""

    undone: bool
    reason: str = ""


# --- messages ---
class Audience(StrEnum):
    """Who is told."""

    CUSTOMER = "customer"
    REVIEWERS = "reviewers"


class Template(StrEnum):
    """Which message. The words belong to the message gateway.

    PAYMENT_DECLINED to a customer goes out with the fact ``pay_link``, which is in no payload of the engine; the link
    ends at the fact ``until`` (a time with its zone, or a day).
    """

    ORDER_CONFIRMED = "order_confirmed"
    ORDER_REJECTED = "order_rejected"
    ORDER_CANCELLED = "order_cancelled"
    SHIPPED = "shipped"
    SHIPMENT_CANCELLED = "shipment_cancelled"
    SHIPMENT_LOST = "shipment_lost"
    SHIPMENT_RETURNED = "shipment_returned"
    PARCEL_RECALLED = "parcel_recalled"
    ORDER_AMENDED = "order_amended"
    PAYMENT_DECLINED = "payment_declined"
    RETURN_REQUESTED = "return_requested"
    LATE = "late"
    REFUNDED = "refunded"
    REVIEW_REMINDER = "review_reminder"
    REVIEW_ESCALATED = "review_escalated"


class Notify(Contract):
    """Tell somebody. The address is looked up by order, it is never in here."""

    order_id: str
    audience: Audience
    template: Template
    facts: dict[str, str] = Field(default_factory=dict)
    key: str
    carried: Carried = Carried()


class Notified(Contract):
    """``sent`` False: there is no address to send to (a guest without e-mail), which is not a failure."""

    sent: bool
    message_id: str | None = None
