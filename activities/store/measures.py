"""What is measured of the orders as a whole, for whoever watches them: counts and ages, nothing of a single order."""

from datetime import UTC, datetime, timedelta

from pydantic import Field
from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import reads, reconciliation
from activities.store.subscribers import SubscriberView, all_subscribers
from models.base import Contract
from models.operations import OperationState, ShippingKind
from models.reconciliation import Area, DifferenceKind
from models.review import ReviewKind
from models.states import ORDER_TERMINAL, OrderState, ReviewState, ShipmentState
from models.tables.journal import ReviewTaskRow
from models.tables.operations import PaymentOperationRow, ShippingOperationRow
from models.tables.orders import IntakeRow, IntakeState, OrderRow, ShipmentRow

# An effect is answered within seconds, and tried for half an hour; one without an answer for so long is unclear.
UNCLEAR_AFTER = timedelta(minutes=5)


class Waiting(Contract):
    """How many wait, and for how many seconds the oldest has."""

    count: int = 0
    oldest_seconds: float = 0.0


class Measures(Contract):
    """Everything at one moment. What is left out counts zero."""

    orders: dict[OrderState, int]
    shipments: dict[ShipmentState, int]
    reviews: dict[ReviewKind, Waiting]
    reviews_overdue: int
    effects_unclear: dict[str, Waiting]
    never_started: Waiting
    awaiting_customer: Waiting = Waiting()
    late_events: int
    differences: dict[DifferenceKind, int] = Field(default_factory=dict)
    reconciled_seconds_ago: dict[Area, float] = Field(default_factory=dict)
    subscribers: tuple[SubscriberView, ...] = ()


async def measures(session: AsyncSession) -> Measures:
    """Count. Every question here is answered from an index; ask it every half minute, not at every order."""
    now = datetime.now(UTC)
    return Measures(
        orders=await reads.state_counts(session),
        shipments=await _shipments(session),
        reviews=await _open_reviews(session, now),
        reviews_overdue=await _overdue(session, now),
        effects_unclear=await _unclear(session, now),
        never_started=await _never_started(session, now),
        awaiting_customer=await _awaiting_customer(session, now),
        late_events=await reads.late_event_count(session),
        differences=await reconciliation.open_counts(session),
        reconciled_seconds_ago={
            area: max((now - at).total_seconds(), 0.0)
            for area, at in (await reconciliation.done_at(session)).items()
        },
        subscribers=tuple(await all_subscribers(session)),
    )


async def _shipments(session: AsyncSession) -> dict[ShipmentState, int]:
    query = select(col(ShipmentRow.state), func.count()).group_by(col(ShipmentRow.state))
    return {ShipmentState(state): count for state, count in await session.execute(query)}


async def _open_reviews(session: AsyncSession, now: datetime) -> dict[ReviewKind, Waiting]:
    query = (
        select(col(ReviewTaskRow.kind), func.count(), func.min(col(ReviewTaskRow.opened_at)))
        .where(col(ReviewTaskRow.state) == ReviewState.OPEN)
        .group_by(col(ReviewTaskRow.kind))
    )
    return {
        ReviewKind(kind): _waiting(count, oldest, now) for kind, count, oldest in await session.execute(query)
    }


async def _overdue(session: AsyncSession, now: datetime) -> int:
    query = (
        select(func.count())
        .select_from(ReviewTaskRow)
        .where(col(ReviewTaskRow.state) == ReviewState.OPEN, col(ReviewTaskRow.deadline_at) < now)
    )
    return await session.scalar(query) or 0


async def _unclear(session: AsyncSession, now: datetime) -> dict[str, Waiting]:
    """Effects whose answer somebody still waits for.

    Not those of orders that have ended: their books were settled, or a person went on without. Nor recalls of parcels:
    one that a carrier does not answer in minutes is given up, and the customer is asked for the goods instead.
    """
    found: dict[str, Waiting] = {}
    for table in (PaymentOperationRow, ShippingOperationRow):
        query = (
            select(col(table.kind), func.count(), func.min(col(table.intended_at)))
            .where(
                col(table.state) == OperationState.INTENDED,
                col(table.intended_at) < now - UNCLEAR_AFTER,
                col(table.kind) != ShippingKind.INTERCEPT,
                ~exists().where(
                    col(OrderRow.order_id) == col(table.order_id), col(OrderRow.state).in_(ORDER_TERMINAL)
                ),
            )
            .group_by(col(table.kind))
        )
        found |= {kind: _waiting(count, oldest, now) for kind, count, oldest in await session.execute(query)}
    return found


async def _never_started(session: AsyncSession, now: datetime) -> Waiting:
    query = select(func.count(), func.min(col(IntakeRow.received_at))).where(
        col(IntakeRow.state) == IntakeState.ACCEPTED
    )
    count, oldest = (await session.execute(query)).one()
    return _waiting(count, oldest, now)


async def _awaiting_customer(session: AsyncSession, now: datetime) -> Waiting:
    query = select(func.count(), func.min(col(OrderRow.updated_at))).where(
        col(OrderRow.state) == OrderState.AWAITING_CUSTOMER
    )
    count, oldest = (await session.execute(query)).one()
    return _waiting(count, oldest, now)


def _waiting(count: int, oldest: datetime | None, now: datetime) -> Waiting:
    age = 0.0 if oldest is None else max((now - oldest).total_seconds(), 0.0)
    return Waiting(count=count, oldest_seconds=age)
