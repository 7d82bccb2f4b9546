"""The one table of steps: what each takes and gives, where it runs, how long it may take and how it is retried.

Time-outs, retries, queues and priorities stand here and nowhere else. A step that ends without an answer goes to a
person; it never just fails. Patience is counted in attempts, not on the wall clock: a machine that sleeps overnight, or
has no worker for a while, uses none of it up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

with workflow.unsafe.imports_passed_through():
    from models import effects as e
    from models import reconciliation as r
    from models import values as v
    from models.base import Contract

WORKFLOWS = "oms-workflows"
ORDERS = "oms-orders"
INVENTORY = "oms-inventory"
PAYMENTS = "oms-payments"
ROUTING = "oms-routing"
CLASSIFY = "oms-classify"
SHIPPING = "oms-shipping"
NOTIFY_QUEUE = "oms-notify"


In = TypeVar("In", bound="Contract")
Out = TypeVar("Out", bound="Contract")


def _patient(patience: timedelta | None, at_least_every: timedelta = timedelta(seconds=30)) -> RetryPolicy:
    """Retries with exponential backoff that are spent after ``patience`` of really trying, or never for None."""
    interval, waited, attempts = timedelta(milliseconds=500), timedelta(0), 1
    while patience is not None and waited < patience:
        waited += interval
        interval = min(interval * 2, at_least_every)
        attempts += 1
    return RetryPolicy(
        initial_interval=timedelta(milliseconds=500),
        backoff_coefficient=2.0,
        maximum_interval=at_least_every,
        maximum_attempts=attempts if patience is not None else 0,
    )


_A_MINUTE = _patient(timedelta(minutes=1))
_LONGEST_LOOK = timedelta(minutes=10)
_HALF_AN_HOUR = _patient(timedelta(minutes=30))
_SIX_HOURS = _patient(timedelta(hours=6), at_least_every=timedelta(minutes=5))
_A_DAY = _patient(timedelta(hours=24), at_least_every=timedelta(minutes=5))
_FOR_EVER = _patient(None)


@dataclass(frozen=True)
class Step(Generic[In, Out]):
    """One activity as the workflows see it. ``summary`` is what Temporal Web shows beside it.

    ``schedule_to_close`` bounds the whole, for steps that nothing depends on; all others wait as long as it takes.
    ``by_hand``: what a person answers who did it instead, as an example; None where only we can do it.
    """

    name: str
    queue: str
    takes: type[In]
    gives: type[Out]
    summary: str
    start_to_close: timedelta = timedelta(seconds=20)
    schedule_to_close: timedelta | None = None
    heartbeat: timedelta | None = None
    retry: RetryPolicy = field(default_factory=lambda: _HALF_AN_HOUR)
    priority: Priority = field(default_factory=lambda: Priority(priority_key=3))
    by_hand: str | None = None


# A compensation gives back money or goods that somebody is waiting for: first in the queue, and tried for a day.
_UNDO_FIRST = Priority(priority_key=1)

VALIDATE_ORDER = Step("validate_order", ORDERS, e.ValidateOrder, e.Validation, "check the document")
RECORD_PROGRESS = Step(
    "record_progress", ORDERS, e.RecordProgress, e.Recorded, "write the timeline", retry=_FOR_EVER
)
APPLY_AMENDMENT = Step(
    "apply_amendment", ORDERS, e.ApplyAmendment, e.AmendmentApplied, "make an amendment the order's document"
)
ASSESS_ORDER = Step("assess_order", CLASSIFY, e.AssessOrder, e.RiskAssessment, "apply the risk rules")

AUTHORISE_PAYMENT = Step(
    "authorise_payment",
    PAYMENTS,
    e.AuthorisePayment,
    e.Authorisation,
    "hold the money",
    by_hand='{"approved": true, "authorisation_id": "...", "amount": {"minor": 1999, "currency": "GBP"}}',
)
VOID_AUTHORISATION = Step(
    "void_authorisation",
    PAYMENTS,
    e.VoidAuthorisation,
    e.Voided,
    "give held money back",
    retry=_A_DAY,
    priority=_UNDO_FIRST,
)
CAPTURE_PAYMENT = Step(
    "capture_payment",
    PAYMENTS,
    e.CapturePayment,
    e.Captured,
    "take the money for what was shipped",
    by_hand='{"capture_id": "...", "amount": {"minor": 1999, "currency": "GBP"}}',
)
REFUND_PAYMENT = Step(
    "refund_payment",
    PAYMENTS,
    e.RefundPayment,
    e.Refunded,
    "pay captured money back",
    retry=_A_DAY,
    priority=_UNDO_FIRST,
    by_hand='{"refund_id": "...", "amount": {"minor": 1999, "currency": "GBP"}}',
)
SETTLE_ORDER = Step(
    "settle_order", PAYMENTS, e.SettleOrder, e.Settlement, "release the rest, check the money, close"
)

ROUTE_ORDER = Step("route_order", ROUTING, e.RouteOrder, e.RouteAnswer, "choose nodes and carrier services")
RESERVE_STOCK = Step("reserve_stock", INVENTORY, e.ReserveStock, e.Reservation, "reserve every unit, or none")
RELEASE_RESERVATION = Step(
    "release_reservation",
    INVENTORY,
    e.ReleaseReservation,
    e.Nothing,
    "free reserved units",
    retry=_A_DAY,
    priority=_UNDO_FIRST,
)

REQUEST_PICK = Step(
    "request_pick",
    SHIPPING,
    e.RequestPick,
    e.PickRequested,
    "ask the warehouse to pick",
    by_hand='{"accepted": true, "pick_id": "..."}',
)
# A look at a neighbour replaces nothing: without an answer the question goes to a person as it would have anyway.
CHECK_PICK = Step(
    "check_pick",
    SHIPPING,
    e.CheckPick,
    e.PickProgress,
    "ask what became of the pick",
    schedule_to_close=_LONGEST_LOOK,
    retry=_A_MINUTE,
)
CANCEL_PICK = Step(
    "cancel_pick",
    SHIPPING,
    e.CancelPick,
    e.Undone,
    "call the pick off",
    retry=_A_DAY,
    priority=_UNDO_FIRST,
)
BUY_LABEL = Step(
    "buy_label",
    SHIPPING,
    e.BuyLabel,
    e.Label,
    "buy the carrier's label",
    by_hand='{"accepted": true, "label_id": "...", "tracking": "...", "cost": {"minor": 395, "currency": "GBP"}}',
)
TRACK_PARCEL = Step(
    "track_parcel",
    SHIPPING,
    e.TrackParcel,
    e.ParcelProgress,
    "ask where the parcel is",
    schedule_to_close=_LONGEST_LOOK,
    retry=_A_MINUTE,
)
# The parcel moves on meanwhile: an answer that takes longer than this comes too late.
INTERCEPT_PARCEL = Step(
    "intercept_parcel",
    SHIPPING,
    e.InterceptParcel,
    e.Interception,
    "ask the carrier to bring the parcel back",
    schedule_to_close=_LONGEST_LOOK,
    retry=_A_MINUTE,
    priority=_UNDO_FIRST,
)
VOID_LABEL = Step(
    "void_label",
    SHIPPING,
    e.VoidLabel,
    e.Undone,
    "give the label back",
    retry=_A_DAY,
    priority=_UNDO_FIRST,
)

NOTIFY = Step(
    "notify",
    NOTIFY_QUEUE,
    e.Notify,
    e.Notified,
    "tell somebody",
    retry=_SIX_HOURS,
    priority=Priority(priority_key=4),
)

# --- reconciliation ---
# Nobody waits for it: it comes after everything else, and what fails now is compared an hour later.
_LAST = Priority(priority_key=5)
_ONE_EXCHANGE = timedelta(seconds=15)

BEGIN_RECONCILIATION = Step(
    "begin_reconciliation", ORDERS, r.BeginReconciliation, r.Begun, "note that a run begins", priority=_LAST
)
READ_PAYMENT_STATEMENT = Step(
    "read_payment_statement",
    PAYMENTS,
    r.ReadStatement,
    r.StatementRead,
    "copy the provider's statement",
    heartbeat=_ONE_EXCHANGE,
    priority=_LAST,
)
COMPARE_MONEY = Step(
    "compare_money",
    PAYMENTS,
    r.Compare,
    r.PieceCompared,
    "our money against the provider's",
    heartbeat=_ONE_EXCHANGE,
    priority=_LAST,
)
READ_CARRIER_STATEMENT = Step(
    "read_carrier_statement",
    SHIPPING,
    r.ReadStatement,
    r.StatementRead,
    "copy the carrier's statement",
    heartbeat=_ONE_EXCHANGE,
    priority=_LAST,
)
COMPARE_LABELS = Step(
    "compare_labels",
    SHIPPING,
    r.Compare,
    r.PieceCompared,
    "labels against shipments",
    heartbeat=_ONE_EXCHANGE,
    priority=_LAST,
)
COMPARE_RESERVATIONS = Step(
    "compare_reservations",
    INVENTORY,
    r.Compare,
    r.PieceCompared,
    "reservations against orders",
    heartbeat=_ONE_EXCHANGE,
    priority=_LAST,
)
COMPARE_STOCK = Step(
    "compare_stock",
    INVENTORY,
    r.Compare,
    r.PieceCompared,
    "reserved counts against reservations",
    heartbeat=_ONE_EXCHANGE,
    priority=_LAST,
)
FINISH_RECONCILIATION = Step(
    "finish_reconciliation",
    ORDERS,
    r.FinishReconciliation,
    r.Finished,
    "note how a run ended",
    priority=_LAST,
)

# --- values of stock ---
# Nobody waits for it: orders go by the values of the last run that came to its end.
WORK_OUT_STOCK_VALUES = Step(
    "work_out_stock_values",
    ROUTING,
    v.WorkOutValues,
    v.ValuesWorkedOut,
    "what stock is worth where it lies",
    start_to_close=timedelta(minutes=10),
    heartbeat=timedelta(seconds=45),
    priority=_LAST,
)
OF_STOCK_VALUES: tuple[Step[Any, Any], ...] = (WORK_OUT_STOCK_VALUES,)

# What no order and no shipment takes.
OF_RECONCILIATION: tuple[Step[Any, Any], ...] = (
    BEGIN_RECONCILIATION,
    READ_PAYMENT_STATEMENT,
    COMPARE_MONEY,
    READ_CARRIER_STATEMENT,
    COMPARE_LABELS,
    COMPARE_RESERVATIONS,
    COMPARE_STOCK,
    FINISH_RECONCILIATION,
)

ALL_STEPS: tuple[Step[Any, Any], ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Step)
)
STEP_BY_NAME: Mapping[str, Step[Any, Any]] = MappingProxyType({step.name: step for step in ALL_STEPS})
QUEUES: tuple[str, ...] = (WORKFLOWS, ORDERS, INVENTORY, PAYMENTS, ROUTING, CLASSIFY, SHIPPING, NOTIFY_QUEUE)
