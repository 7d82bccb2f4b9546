"""What people, machines and our own workflows say to a running order or shipment, and what it answers."""

import json
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints

from models.base import Contract, StorableText, storable
from models.identifiers import Sku
from models.money import Money
from models.review import Verdict
from models.states import ShipmentState

Actor = Annotated[StorableText, StringConstraints(min_length=1, max_length=100)]
Reason = Annotated[StorableText, StringConstraints(min_length=1, max_length=1000)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
# A machine's words: an event must never be refused because it says too much, so they are cut.
Detail = Annotated[
    str, BeforeValidator(lambda value: storable(value)[:500] if isinstance(value, str) else value)
]


def _brief(answer: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(answer, default=str)) > _LONGEST_ANSWER:
        raise ValueError(f"has more than {_LONGEST_ANSWER:,} characters: say what came of the step, no more")
    return answer


# What is longer would travel with the run from then on, and a run that outgrows the engine's limits is ended by it.
_LONGEST_ANSWER = 16_000
# Of an event that travels with a run.
_MOST_MISSING, MOST_MISSING_LINES = 1_000_000, 100
ByHandAnswer = Annotated[dict[str, Any], AfterValidator(_brief)]


class DecideReview(Contract):
    """Update ``decide_review``: a person's answer to a review task."""

    request_id: RequestId
    actor: Actor
    task_id: str
    verdict: Verdict
    reason: Reason
    answer: ByHandAnswer | None = None


class SignalledDecision(Contract):
    """Payload of the signals ``approve``, ``reject`` and ``finish``, sendable by any Temporal client.

    Without ``task_id`` it answers the first review of a case, and no later one. Without ``request_id`` a repeat is seen
    by its task being decided.
    """

    actor: Actor
    reason: Reason
    task_id: str | None = None
    request_id: RequestId | None = None
    answer: ByHandAnswer | None = None


class DecisionAnswer(Contract):
    """What became of a decision."""

    task_id: str
    verdict: Verdict
    message: str


class FailureResolution(StrEnum):
    """How an operator resolves a step that ended without an answer.

    RETRY tries it again under the same key. CANCEL gives the case up. SKIP goes on without a compensation, or with
    books that do not balance: the operator answers for what that leaves as it is. A step on the way forward cannot be
    skipped. FINISH: it was done by hand. Of a step on the way forward ``answer`` is what came of it, as the neighbour
    would have said it; of a compensation our books are told that it is undone.
    """

    RETRY = "retry"
    CANCEL = "cancel"
    SKIP = "skip"
    FINISH = "finish"


class ResolveFailure(Contract):
    """Update ``resolve_failure``: what to do about the step that failed."""

    request_id: RequestId
    actor: Actor
    task_id: str
    resolution: FailureResolution
    reason: Reason
    answer: ByHandAnswer | None = None


class CancelOrder(Contract):
    """Update or signal ``cancel``: call the order off."""

    request_id: RequestId
    actor: Actor
    reason: Reason


class CancelOutcome(StrEnum):
    """What a cancellation led to, as far as is known when it is answered.

    CANCELLING: nothing has left, and what is held is given back. INTERCEPTING: the carrier is asked to bring the
    parcels back. INTERCEPTED: it does; the money is paid back when they are back. RETURN: it cannot; the customer is
    asked to refuse or return them. ENDED: their way had come to its end, as the message says. PARTLY: not the same for
    every parcel. ALREADY: it was called off or given up before.
    """

    CANCELLING = "cancelling"
    INTERCEPTING = "intercepting"
    INTERCEPTED = "intercepted"
    RETURN = "return"
    ENDED = "ended"
    PARTLY = "partly"
    ALREADY = "already"


class Recall(StrEnum):
    """What became of the wish to get a parcel back that is with the carrier.

    ASKED: the carrier has not answered yet. INTERCEPTED: it brings the parcel back. RETURN: it does not, so the
    customer is to refuse or return it.
    """

    ASKED = "asked"
    INTERCEPTED = "intercepted"
    RETURN = "return"


class CancelAnswer(Contract):
    """Which outcome, and in words what happens to goods and money."""

    outcome: CancelOutcome
    message: str


SUBSTITUTION_REQUEST = "substitute:"


class AmendOrder(Contract):
    """Update or signal ``amend_order``: go on by a proposed amendment, which is stored under its id.

    ``total`` is the order's total by it, ``number`` the version of the document that it makes. ``told``: what the
    customer is told of an amendment that nobody asked for. Only of a substitution of our own, which the router asks for
    under an id that begins with ``SUBSTITUTION_REQUEST``, at no higher total, the order need not be approved again.
    """

    request_id: RequestId
    actor: Actor
    reason: Reason
    amendment_id: Detail
    number: int
    total: Money
    told: Detail = ""


class AmendOutcome(StrEnum):
    """APPLYING: under way; what it needs of warehouse, provider or a person takes longer than the caller waits."""

    APPLYING = "applying"
    APPLIED = "applied"
    REFUSED = "refused"


class AmendAnswer(Contract):
    """What became of an amendment, and in words why. ``code`` is stable, for a refusal."""

    outcome: AmendOutcome
    message: str
    code: str | None = None


class OfferTender(Contract):
    """Update or signal ``offer_tender``: another means of payment was stored for an order whose payment was declined.

    ``tender`` is its number, from 1; the token is in the store and nowhere else.
    """

    request_id: RequestId
    actor: Actor
    tender: int


class OfferAnswer(Contract):
    """Whether a tender is tried."""

    taken: bool
    message: str


class StockLost(Contract):
    """Signal ``stock_lost``: the warehouse does not hold what was reserved for these shipments, and it was freed."""

    event_id: RequestId
    actor: Actor
    reason: Reason
    shipments: tuple[int, ...]


class Refusal(StrEnum):
    """Why a neighbour does not take a shipment on, as far as another plan is the answer to it.

    Of a warehouse: its goods are not there or are DAMAGED, it has NO_CAPACITY, is CLOSED, or CANNOT_HANDLE such goods.
    Of a carrier: the service is out (OUTAGE), or is NOT_SERVED there. OVERDUE: nothing was picked in time.
    """

    OUT_OF_STOCK = "out_of_stock"
    DAMAGED = "damaged"
    NO_CAPACITY = "no_capacity"
    CLOSED = "closed"
    CANNOT_HANDLE = "cannot_handle"
    OUTAGE = "outage"
    NOT_SERVED = "not_served"
    OVERDUE = "overdue"


def _known_refusal(value: Any) -> Any:
    return next((known for known in Refusal if known == value), None)


# An event must never be refused for a reason that nobody here knows: a person reads it.
SaidRefusal = Annotated[Refusal | None, BeforeValidator(_known_refusal)]


class Avoided(Contract):
    """What an order is not planned with: a node, or a carrier's service (all of its services without ``service``).

    ``until`` is business time; None: as long as the order lives.
    """

    node: str | None = None
    carrier: str | None = None
    service: str | None = None
    until: AwareDatetime | None = None
    why: Detail = ""


class PlanAgain(Contract):
    """Signal ``plan_again``: what is not packed is to be planned anew.

    ``shipments``: those that cannot go as they are, so that they are unpacked, too; with ``about`` all that it is of,
    and nothing is done where none is. ``avoid``: what this order is not
    to be planned with from now on. ``waiting``: only where it waits for goods. ``set_plan``: the plan that a person has
    set, which is stored under this id.
    """

    event_id: RequestId
    actor: Actor
    reason: Reason
    shipments: tuple[int, ...] = ()
    about: Avoided | None = None
    avoid: tuple[Avoided, ...] = ()
    waiting: bool = False
    set_plan: str | None = None


class RefusedShipment(Contract):
    """What a shipment was refused, and how many times it was: its order is to plan it anew."""

    count: int
    refusal: Refusal
    why: Detail = ""


class StockArrived(Contract):
    """Signal ``stock_arrived``: there is more of what a back-ordered order waits for, so it is to look again."""

    event_id: RequestId
    actor: Actor
    reason: Reason


class CarrierEventKind(StrEnum):
    """A carrier's scan, in our words."""

    COLLECTED = "collected"
    IN_TRANSIT = "in_transit"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    EXCEPTION = "exception"
    DAMAGED = "damaged"
    LOST = "lost"
    RETURNING = "returning"
    RETURNED = "returned"


class CarrierEvent(Contract):
    """Signal ``carrier_event``: one scan. ``occurred_at`` is business time."""

    event_id: RequestId
    kind: CarrierEventKind
    occurred_at: AwareDatetime
    tracking: Detail
    detail: Detail = ""


class WmsEventKind(StrEnum):
    """What the warehouse says about a pick."""

    PICKED = "picked"
    SHORT = "short"
    REFUSED = "refused"
    CANCELLED = "cancelled"


class MissingUnits(Contract):
    """Units that a picker did not find."""

    sku: Sku
    quantity: Annotated[int, Field(strict=True, ge=1, le=_MOST_MISSING)]


class WmsEvent(Contract):
    """Signal ``wms_event``: progress of a pick request. ``occurred_at`` is business time.

    ``missing`` says of a short or refused pick what is not on the shelf or not fit to be sold: it is taken out of
    stock, and the order is planned anew. ``refusal`` says why the node does not pick, and the order is planned without
    it. What says neither is put before a person.
    """

    event_id: RequestId
    kind: WmsEventKind
    occurred_at: AwareDatetime
    pick_id: Detail
    detail: Detail = ""
    missing: tuple[MissingUnits, ...] = Field(default=(), max_length=MOST_MISSING_LINES)
    refusal: SaidRefusal = None


class PaymentEventKind(StrEnum):
    """What the payment provider tells by itself."""

    AUTHORISED = "authorised"
    CAPTURED = "captured"
    VOIDED = "voided"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


class PaymentEvent(Contract):
    """Signal ``payment_event``: the provider's own notice of a movement. ``occurred_at`` is wall time."""

    event_id: RequestId
    kind: PaymentEventKind
    occurred_at: AwareDatetime
    provider_ref: Detail
    amount: Money


class ShipmentProgress(Contract):
    """Signal ``shipment_progress`` from a shipment to its order: its state, and the money it moved."""

    event_id: RequestId
    shipment_id: Detail
    number: int
    state: ShipmentState
    version: int
    needs_review: bool = False
    tracking: Detail | None = None
    captured: Money | None = None
    refunded: Money | None = None
    late: bool = False
    recall: Recall | None = None
    given_up: bool = False
    # The request to stop that it could not follow any more, having been picked.
    goes_on: Detail | None = None
    # The authorisation that its money could not be taken from, for it has expired.
    hold_expired: Detail | None = None
    refused: RefusedShipment | None = None
    occurred_at: AwareDatetime


class CancelShipment(Contract):
    """Signal ``cancel_shipment`` from an order to its shipment.

    ``unless_picked``: its order plans anew. One that is packed goes on; one that is not stops, and leaves its units
    reserved, for they are the order's to plan with. ``unpack``: some of its goods are not there, so that it stops also
    when it is packed, and goes on only where the carrier has it.
    """

    request_id: RequestId
    actor: Actor
    reason: Reason
    unless_picked: bool = False
    unpack: bool = False


class DrawOn(Contract):
    """Signal ``draw_on`` from an order to its shipment: take the money from this authorisation from now on."""

    authorisation_id: Detail
