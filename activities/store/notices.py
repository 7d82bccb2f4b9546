"""The payment provider's own notices: facts for an order's timeline, and nothing more.

They are written without the order's run. Money is moved by our own steps alone, which look at the provider themselves,
so a run would only ever write a notice down; waking it for each would cost it a signal and a turn.
"""

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.clock import BusinessClock
from models.identifiers import order_workflow_id
from models.journal import SYSTEM, TimelineEntry
from models.messages import PaymentEvent
from models.states import OrderState, ReviewState
from models.tables.journal import ReviewTaskRow, TimelineRow
from models.tables.orders import IntakeRow, OrderRow


async def keep_notice(session: AsyncSession, order_id: str, event: PaymentEvent) -> bool:
    """Put ``event`` on the order's timeline, once; False when no such order was ever taken."""
    intake = await session.get(IntakeRow, order_id)
    if intake is None:
        return False
    now = datetime.now(UTC)
    entry = TimelineEntry(
        entry_id=f"{order_workflow_id(order_id)}/payment/{event.event_id}",
        order_id=order_id,
        at=now,
        business_at=await _business_time(session, intake, now),
        actor=SYSTEM,
        kind=f"payment.notice.{event.kind}",
        what=f"the provider reports {event.amount}",
        details={"ref": event.provider_ref},
    )
    await session.execute(
        insert(TimelineRow)
        .values(entry.model_dump() | {"recorded_at": now})
        .on_conflict_do_nothing(index_elements=["entry_id"])
    )
    return True


async def _business_time(session: AsyncSession, intake: IntakeRow, now: datetime) -> datetime:
    """The order's business time, from what its run wrote last; it stands still while somebody is asked."""
    last = (
        await session.execute(
            select(col(TimelineRow.at), col(TimelineRow.business_at))
            .where(col(TimelineRow.order_id) == intake.order_id, col(TimelineRow.shipment_id).is_(None))
            .order_by(col(TimelineRow.position).desc())
            .limit(1)
        )
    ).first()
    if last is None:
        return intake.business_start or now
    asked = await session.scalar(
        select(col(ReviewTaskRow.task_id))
        .where(
            col(ReviewTaskRow.workflow_id) == order_workflow_id(intake.order_id),
            col(ReviewTaskRow.state) == ReviewState.OPEN,
        )
        .limit(1)
    ) or await session.scalar(
        select(col(OrderRow.order_id)).where(
            col(OrderRow.order_id) == intake.order_id,
            col(OrderRow.state) == OrderState.AWAITING_CUSTOMER,
        )
    )
    clock = BusinessClock(speed=intake.speed, wall_start=last.at, business_start=last.business_at)
    return clock.at(last.at if asked else max(now, last.at))
