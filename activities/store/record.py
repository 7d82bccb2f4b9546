"""Write down what a workflow carried: timeline, projections, reviews, how shipments ended.

All of it can be written twice without harm.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store.amendments import ORDER_ENDED, refuse_what_waits
from activities.store.outcomes import keep_shipment_outcome
from models.identifiers import order_workflow_id, shipment_workflow_id
from models.journal import SYSTEM, Carried, OrderProjection, ShipmentProjection, TimelineEntry
from models.review import ReviewKind, ReviewTask
from models.states import ORDER_TERMINAL, SHIPMENT_TERMINAL, ReviewState
from models.tables.journal import ReviewTaskRow, TimelineRow
from models.tables.orders import OrderRow, ShipmentRow

_ITS_RUN_ENDED = "its run has come to its end, and asks nobody any more"


async def record(session: AsyncSession, order_id: str, carried: Carried) -> None:
    """Write ``carried`` for ``order_id`` in the session's transaction.

    Entries are known by id, projections only move forward by version, a review that was answered stays answered:
    late and repeated writers change nothing.
    """
    # The order first, always: whoever works on one order's rows takes its lock before any other.
    ended = []
    if carried.order is not None and await _move_order(session, order_id, carried.order):
        ended.append(order_workflow_id(order_id))
    if carried.shipment is not None and await _move_shipment(session, carried.shipment):
        ended.append(shipment_workflow_id(carried.shipment.shipment_id))
    if carried.entries:
        await _append(session, carried.entries)
    for task in carried.reviews:
        await _keep_review(session, task)
    for workflow_id in ended:
        await _withdraw_what_is_left(session, order_id, workflow_id)
        if workflow_id == order_workflow_id(order_id):
            await refuse_what_waits(session, order_id, ORDER_ENDED)


async def _move_order(session: AsyncSession, order_id: str, projection: OrderProjection) -> bool:
    """Move the order's row; whether that is its end."""
    values = projection.model_dump(exclude={"customer_type", "first_run_id"})
    if projection.first_run_id is not None:
        values["first_run_id"] = projection.first_run_id
    if projection.customer_type is not None:
        values["customer_type"] = projection.customer_type
    moved = await session.scalar(
        update(OrderRow)
        .where(
            col(OrderRow.order_id) == order_id,
            col(OrderRow.version) < projection.version,
            # An end is an end: a run that is reset in Temporal to before it moves the order nowhere else.
            col(OrderRow.state).not_in(ORDER_TERMINAL) | (col(OrderRow.state) == projection.state),
            # Once a run has moved an order, another one that was started under its id moves nothing.
            or_(col(OrderRow.first_run_id).is_(None), col(OrderRow.first_run_id) == projection.first_run_id),
        )
        .values(**values, updated_at=_now())
        .returning(col(OrderRow.order_id))
    )
    return moved is not None and projection.state in ORDER_TERMINAL


async def _move_shipment(session: AsyncSession, projection: ShipmentProjection) -> bool:
    """Move the shipment's row; whether that is its end."""
    now = _now()
    values: dict[str, Any] = projection.model_dump(exclude={"amount"})
    values |= {"amount_minor": projection.amount.minor, "currency": projection.amount.currency}
    statement = insert(ShipmentRow).values(**values, created_at=now, updated_at=now)
    moved = await session.scalar(
        statement.on_conflict_do_update(
            index_elements=["shipment_id"],
            set_=values | {"updated_at": now},
            where=col(ShipmentRow.version) < projection.version,
        ).returning(col(ShipmentRow.shipment_id))
    )
    ended = moved is not None and projection.state in SHIPMENT_TERMINAL
    if ended:
        await keep_shipment_outcome(session, projection)
    return ended


async def _append(session: AsyncSession, entries: tuple[TimelineEntry, ...]) -> None:
    now = _now()
    rows = [entry.model_dump() | {"recorded_at": now} for entry in entries]
    # Rows beside the statement, not in it: it is compiled once then, and not for each number of them.
    await session.execute(insert(TimelineRow).on_conflict_do_nothing(index_elements=["entry_id"]), rows)


async def _keep_review(session: AsyncSession, task: ReviewTask) -> None:
    columns = (
        "task_id", "order_id", "workflow_id", "kind", "state", "opened_at", "deadline_at", "reminders", "escalated",
        "decided_at", "decided_by", "verdict",
    )  # fmt: skip
    values = {column: getattr(task, column) for column in columns}
    values["task"] = task.model_dump(mode="json")
    statement = insert(ReviewTaskRow).values(**values)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["task_id"],
            set_=values,
            where=or_(
                # A run that was reset to before it asked, asks again under the same number.
                statement.excluded.opened_at > col(ReviewTaskRow.opened_at),
                (col(ReviewTaskRow.state) == ReviewState.OPEN)
                & or_(
                    statement.excluded.state != ReviewState.OPEN,
                    (statement.excluded.reminders >= col(ReviewTaskRow.reminders))
                    & (statement.excluded.escalated >= col(ReviewTaskRow.escalated)),
                ),
            ),
        )
    )


async def _withdraw_what_is_left(session: AsyncSession, order_id: str, workflow_id: str) -> None:
    """A run that ends asks nobody any more, nor what it asked before it was reset in Temporal."""
    rows = await session.scalars(
        select(ReviewTaskRow).where(
            # By the order, of which there is an index: every run comes here once.
            col(ReviewTaskRow.order_id) == order_id,
            col(ReviewTaskRow.workflow_id) == workflow_id,
            col(ReviewTaskRow.state) == ReviewState.OPEN,
            col(ReviewTaskRow.kind) != ReviewKind.RUN_BROKEN,
        )
    )
    now = _now()
    for task in [ReviewTask.model_validate(row.task) for row in rows]:
        withdrawn = {
            "state": ReviewState.WITHDRAWN,
            "decided_at": now,
            "decided_by": SYSTEM,
            "reason": _ITS_RUN_ENDED,
        }
        await _keep_review(session, task.model_copy(update=withdrawn))
        entry = TimelineEntry(
            entry_id=f"{task.task_id}/{ReviewState.WITHDRAWN}",
            order_id=task.order_id,
            at=now,
            business_at=now,
            kind=f"review.{ReviewState.WITHDRAWN}",
            what=f"review {ReviewState.WITHDRAWN}",
            why=_ITS_RUN_ENDED,
            policy_version=task.policy_version,
            details={"task_id": task.task_id},
        )
        await _append(session, (entry,))


def _now() -> datetime:
    return datetime.now(UTC)
