"""Parcels that move although our books have given them up: called off and yet collected, paid back and yet delivered.

Their runs have ended, or note such a scan and do no more: what becomes of goods and money is for people to agree.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    String,
    and_,
    any_,
    exists,
    func,
    literal,
    or_,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.identifiers import shipment_workflow_id
from models.messages import CarrierEventKind
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.review import ReviewKind
from models.states import ReviewState, ShipmentState
from models.tables.journal import LateEventRow, ReviewTaskRow, TimelineRow
from models.tables.operations import PaymentOperationRow
from models.tables.orders import ShipmentRow
from models.webhooks import WebhookKind

# In the order in which a parcel passes them. Each proves that the carrier has it, or had it.
_ON_ITS_WAY = (
    CarrierEventKind.COLLECTED,
    CarrierEventKind.IN_TRANSIT,
    CarrierEventKind.OUT_FOR_DELIVERY,
    CarrierEventKind.DELIVERED,
)


class Astray(Contract):
    """A shipment whose goods move although it is ``state``: cancelled, or lost and paid back. ``seen``: its scans."""

    shipment_id: str
    order_id: str
    state: ShipmentState
    node: str
    carrier: str
    units: int
    amount: Money
    tracking: str | None
    seen: tuple[CarrierEventKind, ...]


async def astray(
    session: AsyncSession, decided_as: Collection[str], *, since: datetime | None = None
) -> list[Astray]:
    """Every such shipment, but for those of which a task with a flag of ``decided_as`` has been closed.

    ``since``: only those of which something came from then on, with all that came before. None reads the timeline of
    every cancelled shipment there ever was.
    """
    given_up = _given_up()
    if since is not None:
        # One array: a statement takes no more than 65,535 parameters, and neighbours may send more than that.
        heard_of = literal(sorted(await _heard_of(session, since)), ARRAY(String))
        given_up = and_(col(ShipmentRow.shipment_id) == any_(heard_of), given_up)
    rows, seen = dict[str, ShipmentRow](), defaultdict[str, set[CarrierEventKind]](set)

    def note(row: ShipmentRow, scan: str) -> None:
        known = next((kind for kind in _ON_ITS_WAY if kind == scan), None)
        if known is None or (row.state == ShipmentState.LOST and known is not CarrierEventKind.DELIVERED):
            return
        rows[row.shipment_id] = row
        seen[row.shipment_id].add(known)

    for row, event in await session.execute(
        select(ShipmentRow, col(LateEventRow.event))
        .join(
            LateEventRow,
            (col(LateEventRow.order_id) == col(ShipmentRow.order_id))
            & (col(LateEventRow.workflow_id) == func.concat("shipment:", col(ShipmentRow.shipment_id))),
        )
        .where(given_up, col(LateEventRow.kind) == WebhookKind.CARRIER_EVENT)
    ):
        if row.tracking is None or event["tracking"] == row.tracking:
            note(row, event["kind"])
    for row, what in await session.execute(
        select(ShipmentRow, col(TimelineRow.what))
        .join(
            TimelineRow,
            (col(TimelineRow.order_id) == col(ShipmentRow.order_id))
            & (col(TimelineRow.shipment_id) == col(ShipmentRow.shipment_id)),
        )
        .where(given_up, col(TimelineRow.kind) == "carrier.unexpected")
    ):
        # "collected came when the shipment was cancelled"
        note(row, what.partition(" ")[0])
    for row in await session.scalars(
        select(ShipmentRow).where(
            given_up,
            col(ShipmentRow.state) == ShipmentState.LOST,
            col(ShipmentRow.delivered_at).is_not(None),
        )
    ):
        # It arrived while its money was being paid back.
        note(row, CarrierEventKind.DELIVERED)
    closed = await session.scalars(
        select(col(ReviewTaskRow.workflow_id)).where(
            col(ReviewTaskRow.order_id).in_({row.order_id for row in rows.values()}),
            col(ReviewTaskRow.kind) == ReviewKind.RUN_BROKEN,
            col(ReviewTaskRow.state) != ReviewState.OPEN,
            col(ReviewTaskRow.task)["why_flagged"][0]["code"].astext.in_(decided_as),
        )
    )
    dealt_with = set(closed)
    return [
        Astray(
            shipment_id=shipment,
            order_id=row.order_id,
            state=ShipmentState(row.state),
            node=row.node,
            carrier=row.carrier,
            units=row.units,
            amount=Money(minor=row.amount_minor, currency=row.currency),
            tracking=row.tracking,
            seen=tuple(kind for kind in _ON_ITS_WAY if kind in seen[shipment]),
        )
        for shipment, row in sorted(rows.items())
        if shipment_workflow_id(shipment) not in dealt_with
    ]


async def _heard_of(session: AsyncSession, since: datetime) -> set[str]:
    """The ids of shipments of which something came since then that may be news of a parcel astray.

    Each question is answered by an index of its own: what it costs does not grow with the years.
    """
    late = await session.scalars(
        select(col(LateEventRow.workflow_id)).where(
            col(LateEventRow.received_at) >= since, col(LateEventRow.kind) == WebhookKind.CARRIER_EVENT
        )
    )
    prefix = shipment_workflow_id("")
    heard = {workflow_id.removeprefix(prefix) for workflow_id in late if workflow_id.startswith(prefix)}
    heard |= _named(
        await session.scalars(
            select(col(TimelineRow.shipment_id)).where(
                col(TimelineRow.kind) == "carrier.unexpected", col(TimelineRow.recorded_at) >= since
            )
        )
    )
    # A parcel may be given up, and its money paid back, long after the carrier was heard of last.
    heard |= _named(
        await session.scalars(
            select(col(ShipmentRow.shipment_id)).where(
                # As it stands in the index, or that would not be used.
                text("state IN ('cancelled', 'lost')"),
                col(ShipmentRow.updated_at) >= since,
            )
        )
    )
    heard |= _named(
        await session.scalars(
            select(col(PaymentOperationRow.shipment_id)).where(
                col(PaymentOperationRow.kind) == PaymentKind.REFUND,
                col(PaymentOperationRow.answered_at) >= since,
            )
        )
    )
    return heard


def _named(shipments: Iterable[str | None]) -> set[str]:
    return {shipment for shipment in shipments if shipment is not None}


def _given_up() -> ColumnElement[bool]:
    """Cancelled, or paid back as lost. One that was paid back as damaged may well arrive: somebody decided that."""
    paid_back = (
        exists()
        .where(
            col(PaymentOperationRow.order_id) == col(ShipmentRow.order_id),
            col(PaymentOperationRow.shipment_id) == col(ShipmentRow.shipment_id),
            col(PaymentOperationRow.kind) == PaymentKind.REFUND,
            col(PaymentOperationRow.state) == OperationState.CONFIRMED,
        )
        .correlate(ShipmentRow)
    )
    damaged = (
        exists()
        .where(
            col(TimelineRow.order_id) == col(ShipmentRow.order_id),
            col(TimelineRow.shipment_id) == col(ShipmentRow.shipment_id),
            col(TimelineRow.kind) == "carrier.damaged",
        )
        .correlate(ShipmentRow)
    )
    return or_(
        col(ShipmentRow.state) == ShipmentState.CANCELLED,
        (col(ShipmentRow.state) == ShipmentState.LOST) & paid_back & ~damaged,
    )
