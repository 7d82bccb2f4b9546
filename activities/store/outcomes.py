"""How promises turned out, with the time at which we knew: the only source that learning reads."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.effects import Label
from models.states import ShipmentState
from models.tables.journal import OutcomeKind, OutcomeRow, ReviewTaskRow
from models.tables.operations import OperationState, ShippingKind, ShippingOperationRow
from models.tables.orders import OrderRow, PlanRow, ShipmentRow


async def keep_outcomes(session: AsyncSession, order_id: str) -> None:
    """Append one outcome for the order and one per shipment, as the rows stand in this transaction. Once per order."""
    order = await session.get(OrderRow, order_id, populate_existing=True)
    if order is None:
        return
    shipments = (
        await session.scalars(
            select(ShipmentRow).where(col(ShipmentRow.order_id) == order_id).order_by(col(ShipmentRow.number))
        )
    ).all()
    labels = await _label_costs(session, order_id)
    rows = [_of_shipment(shipment, labels.get(shipment.shipment_id)) for shipment in shipments]
    rows.append(await _of_order(session, order, shipments))
    known_at = datetime.now(UTC)
    await session.execute(
        insert(OutcomeRow)
        .values([row | {"known_at": known_at} for row in rows])
        .on_conflict_do_nothing(index_elements=["outcome_id"])
    )


def _of_shipment(shipment: ShipmentRow, label: Label | None) -> dict[str, Any]:
    cost = label.cost if label is not None else None
    return {
        "outcome_id": shipment.shipment_id,
        "order_id": shipment.order_id,
        "shipment_id": shipment.shipment_id,
        "kind": OutcomeKind.SHIPMENT,
        "promised_at": shipment.promised_at,
        "actual_at": shipment.delivered_at,
        "cost_minor": None if cost is None else cost.minor,
        "currency": None if cost is None else cost.currency,
        "decision": shipment.state,
        "details": {
            "node": shipment.node,
            "carrier": shipment.carrier,
            "service": shipment.service,
            "units": shipment.units,
            "late": shipment.late,
            "handed_over_at": None
            if shipment.handed_over_at is None
            else shipment.handed_over_at.isoformat(),
        },
    }


async def _of_order(
    session: AsyncSession, order: OrderRow, shipments: Sequence[ShipmentRow]
) -> dict[str, Any]:
    plan = None if order.plan_id is None else await session.get(PlanRow, order.plan_id)
    cost = None if plan is None else plan.plan["cost"]
    decisions = (
        await session.scalars(
            select(ReviewTaskRow)
            .where(col(ReviewTaskRow.order_id) == order.order_id)
            .order_by(col(ReviewTaskRow.opened_at), col(ReviewTaskRow.task_id))
        )
    ).all()
    delivered = [shipment.delivered_at for shipment in shipments if shipment.delivered_at is not None]
    all_delivered = bool(shipments) and all(
        shipment.state == ShipmentState.DELIVERED for shipment in shipments
    )
    return {
        "outcome_id": order.order_id,
        "order_id": order.order_id,
        "shipment_id": None,
        "kind": OutcomeKind.ORDER,
        "promised_at": order.promised_at,
        "actual_at": max(delivered) if all_delivered and delivered else None,
        "cost_minor": None if cost is None else cost["minor"],
        "currency": None if cost is None else cost["currency"],
        "decision": order.state,
        "details": {
            "exit_reason": order.exit_reason,
            "plan_id": order.plan_id,
            "router": None if plan is None else plan.plan["router"],
            "shipments": len(shipments),
            "late_shipments": sum(shipment.late for shipment in shipments),
            "touchless": not decisions,
            "reviews": [
                {"kind": task.kind, "state": task.state, "verdict": task.verdict} for task in decisions
            ],
        },
    }


async def _label_costs(session: AsyncSession, order_id: str) -> dict[str, Label]:
    rows = await session.scalars(
        select(ShippingOperationRow).where(
            col(ShippingOperationRow.order_id) == order_id,
            col(ShippingOperationRow.kind) == ShippingKind.LABEL,
            col(ShippingOperationRow.state) == OperationState.CONFIRMED,
        )
    )
    return {row.shipment_id: Label.model_validate(row.answer) for row in rows if row.shipment_id is not None}
