"""The accounts of a demo: what became of every order, whether the books agree, what it took."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import httpx
from sqlalchemy import func, select
from sqlmodel import col
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.store import ledger, reads
from activities.store.store import Store
from apps.cli.replay import Standing, Tally, standings
from models.base import Contract
from models.errors import NotReachable
from models.identifiers import order_workflow_id, shipment_workflow_id
from models.money import Money
from models.states import OrderState
from models.tables.journal import ReviewTaskRow
from models.tables.orders import OrderRow, PlanRow, ShipmentRow

SAMPLE = 40
_AT_ONCE = 16
# A workflow task may fail once or twice because a worker went away; more often is a fault.
_PATIENCE = 3


class Outcomes(Contract):
    """What became of the orders; the figures add up to ``submitted``.

    ``failed``: the run ended badly and left the order unfinished. ``orphaned``: an unfinished order without a run.
    ``still_open``: under way when the wait ended. ``in_review`` counts all that wait for a decision, and
    ``awaiting_customer`` those whose customer is asked for another means of payment.
    """

    submitted: int
    closed: int = 0
    cancelled: int = 0
    compensated: int = 0
    rejected: int = 0
    in_review: int = 0
    awaiting_customer: int = 0
    needs_operator: int = 0
    failed: int = 0
    orphaned: int = 0
    still_open: int = 0

    @property
    def adds_up(self) -> bool:
        """Every submitted order is in exactly one of the other figures."""
        figures: dict[str, int] = self.model_dump(exclude={"submitted"})
        return sum(figures.values()) == self.submitted


class Books(Contract):
    """The payment provider's statement beside our own records, minor units per currency."""

    statement_captured: dict[str, int]
    statement_refunded: dict[str, int]
    store_captured: dict[str, int]
    store_refunded: dict[str, int]
    differing_orders: tuple[str, ...]

    @property
    def agree(self) -> bool:
        """Equal to the penny, in sum and for every single order."""
        return (
            not self.differing_orders
            and _some(self.statement_captured) == _some(self.store_captured)
            and _some(self.statement_refunded) == _some(self.store_refunded)
        )


class _Effect(Contract):
    """A line of a simulator's statement, as far as it concerns these accounts."""

    kind: str
    state: str
    reference: str
    amount_minor: int | None = None
    currency: str | None = None


class _Statement(Contract):
    effects: tuple[_Effect, ...]


class Effort(Contract):
    """What the orders took. ``activities_per_order`` is measured on the histories of ``sampled`` closed orders.

    Of ``plans`` so many are ``proven_plans``: no plan would have cost less.
    """

    shipments: int
    late_shipments: int
    plans: int
    proven_plans: int
    touchless: int
    reviews_opened: int
    sampled: int
    activities_per_order: float


async def outcomes(tally: Tally, store: Store, client: Client) -> Outcomes:
    """Put every order of ``tally`` into one account, asking Temporal about each that is unfinished."""
    known = dict(tally.standings)
    known |= await standings(store, list(known))
    suspects = [order_id for order_id, standing in known.items() if not standing.finished]
    runs = await runs_not_running(client, suspects)
    bad = [order_id for order_id, account in runs.items() if account]
    if bad:
        # A run that ended between the two looks is no fault: look at the order once more.
        await asyncio.sleep(2)
        known |= await standings(store, bad)
    counts = Counter(_account(standing, runs.get(order_id)) for order_id, standing in known.items())
    return Outcomes(submitted=len(known), **counts)


async def books(store: Store, payment_url: str | None) -> Books | None:
    """Compare the payment simulator's statement with our records, over all orders; None without a simulator.

    A movement between the two looks makes them differ for a moment, so a difference is looked at again.
    """
    if payment_url is None:
        return None
    for _ in range(5):
        compared = await _compare(store, payment_url)
        if compared.agree:
            break
        await asyncio.sleep(1)
    return compared


async def done_twice(simulators: Mapping[str, str]) -> tuple[str, ...]:
    """The shipments for which the carriers sold two labels that were both kept, or the warehouse keeps two picks."""
    found: list[str] = []
    for simulator, kind, kept in (
        ("carrier", "label", {"bought", "returning"}),
        ("warehouse", "pick", {"accepted"}),
    ):
        if simulator in simulators:
            statement = await _statement(simulators[simulator])
            counts = Counter(
                effect.reference
                for effect in statement.effects
                if effect.kind == kind and effect.state in kept
            )
            found += [f"{shipment} ({kind})" for shipment, count in counts.items() if count > 1]
    return tuple(sorted(found))


async def about_to_pay(message_url: str | None) -> int:
    """How many simulated customers have yet to give another means of payment; none without a simulator."""
    if message_url is None:
        return 0
    try:
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.get(f"{message_url}/healthz")
            answer.raise_for_status()
        return int(answer.json()["webhooks"]["waiting"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise NotReachable(
            f"the simulator at {message_url} does not answer ({type(error).__name__})"
        ) from error


async def effort(tally: Tally, store: Store, client: Client) -> Effort:
    """Count shipments, reviews and, on a sample, activities."""
    order_ids = list(tally.standings)
    closed = [order_id for order_id, s in tally.standings.items() if s.state is OrderState.CLOSED]
    async with store.transaction() as session:
        shipments, late = (
            await session.execute(
                select(func.count(), func.count().filter(col(ShipmentRow.late))).where(
                    col(ShipmentRow.order_id).in_(order_ids)
                )
            )
        ).one()
        plans, proven = (
            await session.execute(
                select(
                    func.count(),
                    func.count().filter(col(PlanRow.plan)["proof"]["proven"].as_boolean()),
                ).where(col(PlanRow.order_id).in_(order_ids))
            )
        ).one()
        reviewed = [
            order_id
            for (order_id,) in await session.execute(
                select(col(ReviewTaskRow.order_id)).where(col(ReviewTaskRow.order_id).in_(order_ids))
            )
        ]
    step = max(len(closed) // SAMPLE, 1)
    sample = closed[::step][:SAMPLE]
    counted = [await _activities_of(client, store, order_id) for order_id in sample]
    return Effort(
        shipments=shipments,
        late_shipments=late,
        plans=plans,
        proven_plans=proven,
        touchless=len(set(closed) - set(reviewed)),
        reviews_opened=len(reviewed),
        sampled=len(counted),
        activities_per_order=round(sum(counted) / len(counted), 2) if counted else 0.0,
    )


def sums(amounts: dict[str, int]) -> str:
    """Minor units per currency for a person."""
    return (
        ", ".join(str(Money(minor=minor, currency=c)) for c, minor in sorted(_some(amounts).items()))
        or "none"
    )


def _account(standing: Standing, run: str | None) -> str:
    by_state = {
        OrderState.CLOSED: "closed",
        OrderState.CANCELLED: "cancelled",
        OrderState.COMPENSATED: "compensated",
        OrderState.REJECTED: "rejected",
    }
    if standing.state in by_state:
        return by_state[standing.state]
    if run is not None:
        return run
    if standing.state is OrderState.NEEDS_OPERATOR:
        return "needs_operator"
    if standing.state is OrderState.AWAITING_CUSTOMER and standing.parked:
        return "awaiting_customer"
    return "in_review" if standing.parked else "still_open"


async def runs_not_running(client: Client, order_ids: Sequence[str]) -> dict[str, str]:
    """``failed`` or ``orphaned`` for each order whose run is not running; orders with a run are left out."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def look(order_id: str) -> tuple[str, str | None]:
        async with at_once:
            try:
                run = await client.get_workflow_handle(order_workflow_id(order_id)).describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return order_id, "orphaned"
                raise NotReachable(f"Temporal did not answer: {error.message}") from error
        if run.status is WorkflowExecutionStatus.RUNNING:
            return order_id, None
        return order_id, "orphaned" if run.status is WorkflowExecutionStatus.COMPLETED else "failed"

    found = await asyncio.gather(*(look(order_id) for order_id in order_ids))
    return {order_id: account for order_id, account in found if account is not None}


async def ailing_runs(client: Client, workflow_ids: Sequence[str]) -> dict[str, str]:
    """What is wrong with each run that should be going on, in a few words; healthy ones are left out.

    A run whose workflow task fails again and again stands still though Temporal calls it running: its code and its
    history disagree, or its code has a fault. It goes on by itself once mended code is deployed.
    """
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def look(workflow_id: str) -> tuple[str, str | None]:
        async with at_once:
            try:
                run = await client.get_workflow_handle(workflow_id).describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return workflow_id, "no run"
                raise NotReachable(f"Temporal did not answer: {error.message}") from error
        if run.status is not WorkflowExecutionStatus.RUNNING:
            return workflow_id, f"its run is {run.status.name.lower() if run.status else 'gone'}"
        attempt = run.raw_description.pending_workflow_task.attempt
        return (
            workflow_id,
            f"hangs: its workflow task failed {attempt - 1} times" if attempt > _PATIENCE else None,
        )

    found = await asyncio.gather(*(look(workflow_id) for workflow_id in workflow_ids))
    return {workflow_id: trouble for workflow_id, trouble in found if trouble is not None}


async def _compare(store: Store, payment_url: str) -> Books:
    statement = await _statement(payment_url)
    captured, refunded = Counter[str](), Counter[str]()
    per_order: dict[str, list[int]] = {}
    for effect in statement.effects:
        if effect.kind in ("capture", "refund") and effect.currency is not None:
            is_refund = effect.kind == "refund"
            amount = effect.amount_minor or 0
            (refunded if is_refund else captured)[effect.currency] += amount
            per_order.setdefault(effect.reference, [0, 0])[is_refund] += amount
    async with store.transaction() as session:
        ours = await ledger.captured_and_refunded(session)
        rows = await session.execute(
            select(col(OrderRow.order_id), col(OrderRow.currency)).where(col(OrderRow.order_id).in_(ours))
        )
        currencies = {row.order_id: row.currency for row in rows}
    store_captured, store_refunded = Counter[str](), Counter[str]()
    for order_id, (took, gave) in ours.items():
        store_captured[currencies[order_id]] += took
        store_refunded[currencies[order_id]] += gave
    differing = sorted(
        order_id
        for order_id in per_order.keys() | ours.keys()
        if tuple(per_order.get(order_id, (0, 0))) != ours.get(order_id, (0, 0))
    )
    return Books(
        statement_captured=dict(captured),
        statement_refunded=dict(refunded),
        store_captured=dict(store_captured),
        store_refunded=dict(store_refunded),
        differing_orders=tuple(differing),
    )


async def _statement(url: str) -> _Statement:
    try:
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.get(f"{url}/statement")
            answer.raise_for_status()
    except httpx.HTTPError as error:
        raise NotReachable(f"the simulator at {url} gives no statement ({error})") from error
    return _Statement.model_validate_json(answer.content)


async def _activities_of(client: Client, store: Store, order_id: str) -> int:
    async with store.transaction() as session:
        shipments = await reads.shipments(session, order_id)
    workflows = [order_workflow_id(order_id)]
    workflows += [shipment_workflow_id(shipment.shipment_id) for shipment in shipments]
    return sum([await _activities_in(client, workflow_id) for workflow_id in workflows])


async def _activities_in(client: Client, workflow_id: str) -> int:
    """Activities scheduled over all runs of a workflow; a retry of one is not another."""
    count, run_id = 0, None
    while run_id != "":
        history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
        count += sum(
            event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED for event in history.events
        )
        started = history.events[0].workflow_execution_started_event_attributes
        run_id = started.continued_execution_run_id
    return count


def _some(amounts: dict[str, int]) -> dict[str, int]:
    return {currency: minor for currency, minor in amounts.items() if minor}
