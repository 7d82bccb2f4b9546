"""Activities that answer by script, registered under the steps' real names: workflows alone are under test here.

The steps themselves are tested against the real database and the real simulators in tests/activities, and the whole in
tests/apps.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from models import effects as e
from models.base import Contract
from models.journal import Carried, OrderProjection, ShipmentProjection, TimelineEntry
from models.money import Money
from models.order import CustomerType
from models.plan import PlanSummary, ShipmentRef
from models.review import ReviewTask
from workflows import steps

PLACED = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def pounds(minor: int) -> Money:
    return Money(minor=minor, currency="GBP")


def some_facts(order_id: str, total: int = 5_000) -> e.OrderFacts:
    return e.OrderFacts(
        order_id=order_id,
        document_hash="0" * 64,
        channel=order_id.partition(":")[0],
        customer_type=CustomerType.B2C,
        total=pounds(total),
        goods=pounds(total),
        line_count=2,
        unit_count=5,
        max_line_quantity=3,
        ship_country="GB",
        placed_at=PLACED,
    )


def some_plan(shipments: int = 1, total: int = 5_000, cost: int = 600, first: int = 1) -> PlanSummary:
    amounts = pounds(total).allocate([1] * shipments)
    promised = datetime.now(UTC) + timedelta(days=3)
    return PlanSummary(
        plan_id=f"plan-{first}",
        shipments=tuple(
            ShipmentRef(
                number=first + n,
                node=f"node-{first + n}",
                carrier="post",
                service="standard",
                units=2,
                amount=amount,
                promised_at=promised,
            )
            for n, amount in enumerate(amounts)
        ),
        cost=pounds(cost),
        goods_value=pounds(total),
        promised_at=promised,
        router="scripted/1",
    )


class Script:
    """What each step answers. ``calls`` is what was asked, in order; ``written`` what the journal carried."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Any], Contract]] = {
            "validate_order": lambda r: e.Validation(facts=some_facts(r.order_id)),
            "record_progress": lambda r: e.Recorded(),
            "apply_amendment": lambda r: e.AmendmentApplied(
                facts=None if r.refused else some_facts(r.order_id, self.amended()),
                units_left=5,
                refusal=r.refused,
            ),
            "assess_order": lambda r: e.RiskAssessment(decision=e.RiskDecision.PASS, policy_version="risk-1"),
            "authorise_payment": lambda r: e.Authorisation(
                approved=True,
                authorisation_id=f"auth-{r.key.rpartition(':')[2]}",
                amount=r.amount,
                expires_at=datetime.now(UTC) + timedelta(days=3_650),
            ),
            "void_authorisation": lambda r: e.Voided(amount=pounds(5_000)),
            "capture_payment": lambda r: e.Captured(capture_id=f"cap-{r.shipment_id}", amount=r.amount),
            "refund_payment": lambda r: e.Refunded(refund_id="ref-1", amount=r.amount),
            "settle_order": lambda r: e.Settlement(
                balanced=True, captured=r.total, refunded=pounds(0), voided=pounds(0)
            ),
            "route_order": lambda r: e.RouteAnswer(
                plan=some_plan(
                    first=r.first_number, total=r.outstanding.minor if r.outstanding else self.total
                )
            ),
            "reserve_stock": lambda r: e.Reservation(reserved=True),
            "release_reservation": lambda r: e.Nothing(),
            "request_pick": lambda r: e.PickRequested(accepted=True, pick_id="pick-1"),
            "check_pick": lambda r: e.PickProgress(),
            "track_parcel": lambda r: e.ParcelProgress(),
            "cancel_pick": lambda r: e.Undone(undone=True),
            "buy_label": lambda r: e.Label(
                accepted=True, label_id="label-1", tracking=f"TRK-{r.number}", cost=pounds(400)
            ),
            "intercept_parcel": lambda r: e.Interception(accepted=True),
            "void_label": lambda r: e.Undone(undone=True),
            "notify": lambda r: e.Notified(sent=True, message_id="msg-1"),
        }
        # The order's total, and what an amendment makes of it.
        self.total = self.amended_total = 5_000
        self.calls: list[tuple[str, Any]] = []
        self.holds: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.entries: dict[str, TimelineEntry] = {}
        self.orders: dict[str, OrderProjection] = {}
        self.shipments: dict[str, ShipmentProjection] = {}
        self.reviews: dict[str, ReviewTask] = {}

    def amended(self) -> int:
        """Take the amended total for the order's."""
        self.total = self.amended_total
        return self.total

    def names(self, subject: str) -> list[str]:
        """The steps that an order (with its shipments) asked for, in order, without the plain journal writes."""
        return [name for name, request in self.calls if _of(request) == subject and name != "record_progress"]

    def requests(self, name: str, subject: str) -> list[Any]:
        return [request for called, request in self.calls if called == name and _of(request) == subject]

    def hold(self, name: str) -> asyncio.Event:
        """Keep the step waiting until the event given back is set; ``reached[name]`` tells that it is there."""
        self.holds[name] = asyncio.Event()
        return self.holds[name]

    def fail(self, name: str, message: str = "broken for good", *, times: int = 1) -> None:
        """Let a step fail for good the next ``times``, then answer as before."""
        usual, left = self.answers[name], [times]

        def answer(request: Any) -> Contract:
            if left[0] > 0:
                left[0] -= 1
                raise ApplicationError(message, type="neighbour_refused", non_retryable=True)
            return usual(request)

        self.answers[name] = answer

    async def play(self, step: steps.Step[Any, Any], request: Any) -> Any:
        """Answer one step by script."""
        self.calls.append((step.name, request))
        self.reached[step.name].set()
        if step.name in self.holds:
            await self.holds[step.name].wait()
        answer = self.answers[step.name](request)
        carried = getattr(request, "carried", None)
        if carried is not None:
            self._write(_of(request), carried)
        if isinstance(request, e.SettleOrder) and isinstance(answer, e.Settlement) and answer.balanced:
            self._write(_of(request), request.closing)
        return answer

    def _write(self, order_id: str, carried: Carried) -> None:
        for entry in carried.entries:
            known = self.entries.setdefault(entry.entry_id, entry)
            assert known == entry, "one entry id must always name the same fact"
        # As the store does: a late writer with an older version changes nothing.
        stands = self.orders.get(order_id)
        if carried.order and (stands is None or stands.version < carried.order.version):
            self.orders[order_id] = carried.order
        shipment = carried.shipment
        if shipment:
            row = self.shipments.get(shipment.shipment_id)
            if row is None or row.version < shipment.version:
                self.shipments[shipment.shipment_id] = shipment
        for review in carried.reviews:
            self.reviews[review.task_id] = review


def scripted_activities(scripts: Mapping[str, Script]) -> dict[str, list[Callable[..., Any]]]:
    """One activity for each step of the table, by queue; each order plays its own script."""
    queues: dict[str, list[Callable[..., Any]]] = defaultdict(list)
    for step in steps.ALL_STEPS:
        queues[step.queue].append(_activity(step, scripts))
    return queues


def _activity(step: steps.Step[Any, Any], scripts: Mapping[str, Script]) -> Callable[..., Any]:
    async def scripted(request: Any) -> Any:
        return await scripts[_of(request)].play(step, request)

    scripted.__annotations__ = {"request": step.takes, "return": step.gives}
    return activity.defn(name=step.name)(scripted)


def _of(request: Any) -> str:
    """Whose script it is: an order's, or that of a run of the reconciliation."""
    return str(getattr(request, "order_id", None) or request.run_id)
