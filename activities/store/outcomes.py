"""How promises turned out, with the time at which we knew: the only source that learning reads."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.effects import Label
from models.journal import ShipmentProjection
from models.operations import OperationState, ShippingKind
from models.plan import Plan
from models.tables.journal import OutcomeKind, OutcomeRow, ReviewTaskRow
from models.tables.operations import ShippingOperationRow
from models.tables.orders import OrderRow, PlanRow, ShipmentRow


async def keep_shipment_outcome(session: AsyncSession, shipment: ShipmentProjection) -> None:
    """Append how a shipment ended. Once per ending: a parcel given up for lost that turns up has two."""
    label = await _label(session, shipment.shipment_id)
    cost = None if label is None else label.cost
    handed_over_at = shipment.handed_over_at
    await _append(
        session,
        outcome_id=f"{shipment.shipment_id}/{shipment.state}",
        order_id=shipment.order_id,
        shipment_id=shipment.shipment_id,
        kind=OutcomeKind.SHIPMENT,
        promised_at=shipment.promised_at,
        actual_at=shipment.delivered_at,
        cost_minor=None if cost is None else cost.minor,
        currency=None if cost is None else cost.currency,
        decision=shipment.state,
        details={
            "node": shipment.node,
            "carrier": shipment.carrier,
            "service": shipment.service,
            "units": shipment.units,
            "late": shipment.late,
            "handed_over_at": None if handed_over_at is None else handed_over_at.isoformat(),
        },
    )


async def keep_order_outcome(session: AsyncSession, order_id: str) -> None:
    """Append how an order ended, as its rows stand in this transaction. Once per order."""
    order = await session.get(OrderRow, order_id, populate_existing=True)
    if order is None:
        return
    shipments = (
        await session.scalars(select(ShipmentRow).where(col(ShipmentRow.order_id) == order_id))
    ).all()
    plan = None if order.plan_id is None else await session.get(PlanRow, order.plan_id)
    cost = None if plan is None else Plan.model_validate(plan.plan).cost
    reviews = (
        await session.scalars(
            select(ReviewTaskRow)
            .where(col(ReviewTaskRow.order_id) == order_id)
            .order_by(col(ReviewTaskRow.opened_at), col(ReviewTaskRow.task_id))
        )
    ).all()
    await _append(
        session,
        outcome_id=order_id,
        order_id=order_id,
        kind=OutcomeKind.ORDER,
        promised_at=order.promised_at,
        actual_at=_complete_at(shipments),
        cost_minor=None if cost is None else cost.minor,
        currency=None if cost is None else cost.currency,
        decision=order.state,
        details={
            "exit_reason": order.exit_reason,
            "plan_id": order.plan_id,
            "router": None if plan is None else plan.plan["router"],
            "shipments": len(shipments),
            "late_shipments": sum(shipment.late for shipment in shipments),
            "touchless": not reviews,
            "reviews": [
                {"kind": task.kind, "state": task.state, "verdict": task.verdict} for task in reviews
            ],
        },
    )


def _complete_at(shipments: Sequence[ShipmentRow]) -> datetime | None:
    """When the last parcel arrived; None unless all did."""
    arrived = [shipment.delivered_at for shipment in shipments if shipment.delivered_at is not None]
    return max(arrived) if arrived and len(arrived) == len(shipments) else None


async def _append(session: AsyncSession, **values: Any) -> None:
    await session.execute(
        insert(OutcomeRow)
        .values(**values, known_at=datetime.now(UTC))
        .on_conflict_do_nothing(index_elements=["outcome_id"])
    )


async def _label(session: AsyncSession, shipment_id: str) -> Label | None:
    answer = await session.scalar(
        select(col(ShippingOperationRow.answer)).where(
            col(ShippingOperationRow.shipment_id) == shipment_id,
            col(ShippingOperationRow.kind) == ShippingKind.LABEL,
            col(ShippingOperationRow.state) == OperationState.CONFIRMED,
        )
    )
    return None if answer is None else Label.model_validate(answer)
