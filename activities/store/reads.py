"""Reads for API, command line and checks. Lists come from here, never from a workflow."""

import base64
import binascii
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Select, and_, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import ledger
from activities.store.views import (
    LateEventView,
    LineView,
    MoneyTotals,
    OpenOrder,
    OrderSummary,
    OrderView,
    Page,
    PaymentView,
    ReviewPage,
    ShipmentView,
    TimelineView,
)
from models.base import Contract
from models.errors import InvalidDocument, Problem
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import CustomerType
from models.review import ReviewKind, ReviewTask
from models.states import ORDER_TERMINAL, SHIPMENT_TERMINAL, OrderState, ReviewState
from models.tables.amendments import AmendmentRow
from models.tables.journal import LateEventRow, ReviewTaskRow, TimelineRow
from models.tables.operations import PaymentOperationRow
from models.tables.orders import IntakeRow, IntakeState, OrderLineRow, OrderRow, ShipmentRow

MAX_PAGE = 500
CANCEL_REQUESTED = "cancel.requested"


class OrderFilters(Contract):
    """Which orders to list; None takes all."""

    state: OrderState | None = None
    channel: str | None = None
    customer_type: CustomerType | None = None
    needs_review: bool | None = None


class ReviewFilters(Contract):
    """Which review tasks to list; None takes all."""

    state: ReviewState | None = ReviewState.OPEN
    kind: ReviewKind | None = None
    order_id: str | None = None


async def order(session: AsyncSession, order_id: str) -> OrderView | None:
    """Everything about one order, or None."""
    found = (
        await session.execute(
            select(OrderRow, IntakeRow, col(AmendmentRow.document_hash))
            .join(IntakeRow, col(IntakeRow.order_id) == col(OrderRow.order_id))
            .outerjoin(
                AmendmentRow,
                and_(
                    col(AmendmentRow.order_id) == col(OrderRow.order_id),
                    col(AmendmentRow.number) == col(OrderRow.document_version),
                ),
            )
            .where(col(OrderRow.order_id) == order_id)
        )
    ).one_or_none()
    if found is None:
        return None
    row, intake, amended_hash = found
    asked = await _payments(session, order_id)
    return OrderView(
        **_summary(row).model_dump(),
        document_version=row.document_version,
        document_hash=amended_hash or intake.document_hash,
        source=intake.source,
        received_at=intake.received_at,
        lines=await _lines(session, row),
        shipments=await shipments(session, order_id),
        reviews=(await reviews(session, ReviewFilters(state=None, order_id=order_id))).reviews,
        payments=tuple(_payment(payment) for payment in asked),
        money=_totals(await ledger.moved(session, order_id), asked, row.currency),
        late_events=await late_events(session, order_id),
    )


async def orders(
    session: AsyncSession, filters: OrderFilters | None = None, cursor: str | None = None, limit: int = 50
) -> Page:
    """A page of orders, newest first.

    ``cursor`` is the ``next_cursor`` of the page before. Raises ``InvalidDocument`` for a cursor that is not ours.
    """
    limit = max(1, min(limit, MAX_PAGE))
    newest_first = tuple_(col(OrderRow.created_at), col(OrderRow.order_id))
    query = _filtered(filters or OrderFilters()).order_by(
        col(OrderRow.created_at).desc(), col(OrderRow.order_id).desc()
    )
    if cursor is not None:
        query = query.where(newest_first < read_cursor(cursor))
    rows = (await session.scalars(query.limit(limit + 1))).all()
    page = rows[:limit]
    return Page(
        orders=tuple(_summary(row) for row in page),
        next_cursor=cursor_of(page[-1].created_at, page[-1].order_id) if len(rows) > limit else None,
    )


async def timeline(session: AsyncSession, order_id: str) -> list[TimelineView]:
    """Every entry of an order and its shipments, in the order of writing."""
    rows = await session.scalars(
        select(TimelineRow).where(col(TimelineRow.order_id) == order_id).order_by(col(TimelineRow.position))
    )
    return [TimelineView.model_validate(row.model_dump()) for row in rows]


async def reviews(
    session: AsyncSession,
    filters: ReviewFilters | None = None,
    cursor: str | None = None,
    limit: int = MAX_PAGE,
) -> ReviewPage:
    """A page of review tasks, oldest first; ``cursor`` as in ``orders``."""
    limit = max(1, min(limit, MAX_PAGE))
    filters = filters or ReviewFilters()
    oldest_first = tuple_(col(ReviewTaskRow.opened_at), col(ReviewTaskRow.task_id))
    query = select(ReviewTaskRow).order_by(col(ReviewTaskRow.opened_at), col(ReviewTaskRow.task_id))
    if filters.state is not None:
        query = query.where(col(ReviewTaskRow.state) == filters.state)
    if filters.kind is not None:
        query = query.where(col(ReviewTaskRow.kind) == filters.kind)
    if filters.order_id is not None:
        query = query.where(col(ReviewTaskRow.order_id) == filters.order_id)
    if cursor is not None:
        query = query.where(oldest_first > read_cursor(cursor))
    rows = (await session.scalars(query.limit(limit + 1))).all()
    page = rows[:limit]
    return ReviewPage(
        reviews=tuple(ReviewTask.model_validate(row.task) for row in page),
        next_cursor=cursor_of(page[-1].opened_at, page[-1].task_id) if len(rows) > limit else None,
    )


async def was_called_off_by(session: AsyncSession, order_id: str, request_id: str) -> bool:
    """Whether the order's timeline holds the cancellation with this request id."""
    found = await session.scalar(
        select(func.count())
        .select_from(TimelineRow)
        .where(
            col(TimelineRow.order_id) == order_id,
            col(TimelineRow.kind) == CANCEL_REQUESTED,
            col(TimelineRow.details)["request_id"].astext == request_id,
        )
    )
    return bool(found)


async def review(session: AsyncSession, task_id: str) -> ReviewTask | None:
    """One review task, or None."""
    row = await session.get(ReviewTaskRow, task_id)
    return None if row is None else ReviewTask.model_validate(row.task)


async def shipments(session: AsyncSession, order_id: str) -> tuple[ShipmentView, ...]:
    """The shipments of an order by number."""
    rows = await session.scalars(
        select(ShipmentRow).where(col(ShipmentRow.order_id) == order_id).order_by(col(ShipmentRow.number))
    )
    return tuple(
        ShipmentView(
            **row.model_dump(exclude={"amount_minor", "currency", "created_at", "updated_at"}),
            amount=Money(minor=row.amount_minor, currency=row.currency),
        )
        for row in rows
    )


async def late_events(session: AsyncSession, order_id: str) -> tuple[LateEventView, ...]:
    """What neighbours told of the order and its shipments when no run was there to hear it, oldest first."""
    rows = await session.scalars(
        select(LateEventRow)
        .where(col(LateEventRow.order_id) == order_id)
        .order_by(col(LateEventRow.received_at), col(LateEventRow.event_id))
    )
    # The neighbour's own id: the row's has the kind before it.
    return tuple(
        LateEventView.model_validate(row.model_dump() | {"event_id": row.event["event_id"]}) for row in rows
    )


async def late_event_count(session: AsyncSession) -> int:
    """How many late events are kept, of all orders and of what is no order of ours."""
    return await session.scalar(select(func.count()).select_from(LateEventRow)) or 0


async def money(session: AsyncSession, order_id: str, currency: str) -> MoneyTotals:
    """The order's money: what the ledger adds up to, and how many movements have no answer yet."""
    return _totals(await ledger.moved(session, order_id), await _payments(session, order_id), currency)


async def payments(session: AsyncSession, order_id: str) -> tuple[PaymentView, ...]:
    """Every movement of an order's money, in the order of intention."""
    return tuple(_payment(row) for row in await _payments(session, order_id))


async def currency(session: AsyncSession, order_id: str) -> str | None:
    """The currency of an order, or None when it is not known."""
    return await session.scalar(select(col(OrderRow.currency)).where(col(OrderRow.order_id) == order_id))


async def state_counts(
    session: AsyncSession, order_ids: Collection[str] | None = None
) -> dict[OrderState, int]:
    """How many orders stand in each state; states without any are left out."""
    query = select(col(OrderRow.state), func.count()).group_by(col(OrderRow.state))
    if order_ids is not None:
        query = query.where(col(OrderRow.order_id).in_(order_ids))
    return {OrderState(state): count for state, count in await session.execute(query)}


async def open_orders(session: AsyncSession) -> list[OpenOrder]:
    """Every order that is not finished, oldest first. Each must have a run; those that wait for us, a review."""
    return await _open(session, _open_query())


async def open_shipments(session: AsyncSession) -> dict[str, str]:
    """Every shipment that is under way, with its order. Each must have a run."""
    rows = await session.execute(
        select(col(ShipmentRow.shipment_id), col(ShipmentRow.order_id))
        .where(col(ShipmentRow.state).not_in(SHIPMENT_TERMINAL))
        .order_by(col(ShipmentRow.shipment_id))
    )
    return {row.shipment_id: row.order_id for row in rows}


async def unowned_orders(session: AsyncSession, older_than: timedelta) -> list[OpenOrder]:
    """Open orders that nobody is known to work on.

    Accepted longer than ``older_than`` ago and never started, or waiting for a person of ours without an open review
    for that long. (Whether a started one still runs, only Temporal can tell: compare ``open_orders`` with it.)
    """
    waiting = (OrderState.IN_REVIEW, OrderState.NEEDS_OPERATOR)
    before = datetime.now(UTC) - older_than
    never_started = and_(col(IntakeRow.state) == IntakeState.ACCEPTED, col(IntakeRow.received_at) < before)
    nobody_asked = and_(
        col(OrderRow.state).in_(waiting), _OPEN_REVIEWS == 0, col(OrderRow.updated_at) < before
    )
    return await _open(session, _open_query().where(or_(never_started, nobody_asked)))


_OPEN_REVIEWS = (
    select(func.count())
    .select_from(ReviewTaskRow)
    .where(
        col(ReviewTaskRow.order_id) == col(OrderRow.order_id), col(ReviewTaskRow.state) == ReviewState.OPEN
    )
    .correlate(OrderRow)
    .scalar_subquery()
)


def _open_query() -> Select[str, str, str, str, int]:
    return (
        select(
            col(OrderRow.order_id),
            col(OrderRow.workflow_id),
            col(OrderRow.state),
            col(IntakeRow.state),
            _OPEN_REVIEWS,
        )
        .join(IntakeRow, col(IntakeRow.order_id) == col(OrderRow.order_id))
        .where(col(OrderRow.state).not_in(ORDER_TERMINAL))
        .order_by(col(OrderRow.created_at), col(OrderRow.order_id))
    )


async def _open(session: AsyncSession, query: Select[str, str, str, str, int]) -> list[OpenOrder]:
    return [
        OpenOrder(
            order_id=order_id,
            workflow_id=workflow_id,
            state=OrderState(state),
            started=intake == IntakeState.STARTED,
            open_reviews=open_reviews,
        )
        for order_id, workflow_id, state, intake, open_reviews in await session.execute(query)
    ]


def _filtered(filters: OrderFilters) -> Select[OrderRow]:
    query = select(OrderRow)
    if filters.state is not None:
        query = query.where(col(OrderRow.state) == filters.state)
    if filters.channel is not None:
        query = query.where(col(OrderRow.channel) == filters.channel)
    if filters.customer_type is not None:
        query = query.where(col(OrderRow.customer_type) == filters.customer_type)
    if filters.needs_review is not None:
        query = query.where(col(OrderRow.needs_review).is_(filters.needs_review))
    return query


def cursor_of(moment: datetime, identifier: str) -> str:
    """Where a page ended, for who asks for the next one."""
    return base64.urlsafe_b64encode(json.dumps([moment.isoformat(), identifier]).encode()).decode()


def read_cursor(cursor: str) -> tuple[datetime, str]:
    """What ``cursor_of`` wrote. Raises ``InvalidDocument`` for anything else."""
    try:
        written, identifier = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        moment = datetime.fromisoformat(written)
        if moment.tzinfo is None or not isinstance(identifier, str) or "\x00" in identifier:
            raise ValueError
    except (ValueError, TypeError, binascii.Error):
        problem = Problem(
            path="cursor", code="bad_cursor", message="is not a cursor of this list: start without one"
        )
        raise InvalidDocument((problem,)) from None
    return moment, identifier


def _summary(row: OrderRow) -> OrderSummary:
    return OrderSummary(
        **row.model_dump(exclude={"total_minor", "goods_minor", "currency"}),
        total=Money(minor=row.total_minor, currency=row.currency),
        goods=Money(minor=row.goods_minor, currency=row.currency),
    )


async def _lines(session: AsyncSession, row: OrderRow) -> tuple[LineView, ...]:
    lines = await session.scalars(
        select(OrderLineRow)
        .where(col(OrderLineRow.order_id) == row.order_id)
        .order_by(col(OrderLineRow.position))
    )
    return tuple(
        LineView(
            line_id=line.line_id,
            sku=line.sku,
            description=line.description,
            quantity=line.quantity,
            unit_price=Money(minor=line.unit_price_minor, currency=row.currency),
        )
        for line in lines
    )


async def _payments(session: AsyncSession, order_id: str) -> Sequence[PaymentOperationRow]:
    rows = await session.scalars(
        select(PaymentOperationRow)
        .where(col(PaymentOperationRow.order_id) == order_id)
        .order_by(col(PaymentOperationRow.intended_at), col(PaymentOperationRow.key))
    )
    return rows.all()


def _payment(row: PaymentOperationRow) -> PaymentView:
    return PaymentView(
        key=row.key,
        kind=PaymentKind(row.kind),
        state=OperationState(row.state),
        shipment_id=row.shipment_id,
        amount=Money(minor=row.amount_minor, currency=row.currency),
        provider_ref=row.provider_ref,
        cause=row.cause,
        intended_at=row.intended_at,
        answered_at=row.answered_at,
    )


def _totals(moved: ledger.Moved, asked: Sequence[PaymentOperationRow], currency: str) -> MoneyTotals:
    # A void without an answer leaves its hold open, which is what counts: once that is gone, nobody waits for it.
    unclear = sum(
        payment.state == OperationState.INTENDED and payment.kind != PaymentKind.VOID for payment in asked
    )
    amounts = {what: Money(minor=minor, currency=currency) for what, minor in moved.model_dump().items()}
    return MoneyTotals(**amounts, unclear=unclear)
