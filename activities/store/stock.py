"""Reservations: every unit of a plan or none, never more than there is, whoever else is reserving."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import delete, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.effects import Reservation, Shortage
from models.errors import Refused
from models.tables.stock import ReservationRow, ReservationState, ReservedUnitsRow, StockRow, UnitState

# (node, SKU) -> units
Units = Mapping[tuple[str, str], int]


class Wanted(Contract):
    """``quantity`` units of ``sku`` at ``node`` for one shipment."""

    shipment_id: str
    node: str
    sku: str
    quantity: int


async def reserve(
    session: AsyncSession,
    *,
    key: str,
    order_id: str,
    plan_id: str,
    wanted: Sequence[Wanted],
    expires_at: datetime,
) -> Reservation:
    """Reserve all of ``wanted`` under ``key``, or nothing and say what was short.

    The same key again changes nothing. Raises ``Refused`` when the reservation was released before it came.
    """
    if not await _claim(session, key=key, order_id=order_id, plan_id=plan_id, expires_at=expires_at):
        return Reservation(reserved=True)
    units = _per_shipment(wanted)
    demand = _demand(units)
    # One order of locking for everybody, so that two large orders cannot wait for each other for ever.
    found = await _lock(session, demand)
    missing = [
        Shortage(node=node, sku=sku, requested=asked, available=found.get((node, sku), 0))
        for (node, sku), asked in sorted(demand.items())
        if found.get((node, sku), 0) < asked
    ]
    if missing:
        # The key stays free: the same reservation may come again when there is stock.
        await session.execute(delete(ReservationRow).where(col(ReservationRow.key) == key))
        return Reservation(reserved=False, shortages=tuple(missing))
    await _add(session, demand, reserved=+1)
    await session.execute(
        insert(ReservedUnitsRow),
        [
            {
                "key": key,
                "shipment_id": shipment_id,
                "node": node,
                "sku": sku,
                "quantity": quantity,
                "state": UnitState.HELD,
            }
            for (shipment_id, node, sku), quantity in sorted(units.items())
        ],
    )
    return Reservation(reserved=True)


async def release(session: AsyncSession, *, key: str, order_id: str, shipment_id: str | None = None) -> None:
    """Free what ``key`` still holds, or only ``shipment_id``'s part of it. What was shipped stays shipped.

    Releasing the whole of a reservation that never came leaves a mark, so that it is refused when it comes late.
    """
    if shipment_id is None:
        await session.execute(
            insert(ReservationRow)
            .values(key=key, order_id=order_id, state=ReservationState.RELEASED, created_at=datetime.now(UTC))
            .on_conflict_do_update(index_elements=["key"], set_={"state": ReservationState.RELEASED})
        )
    freed = (
        update(ReservedUnitsRow)
        .where(col(ReservedUnitsRow.key) == key, col(ReservedUnitsRow.state) == UnitState.HELD)
        .values(state=UnitState.RELEASED)
        .returning(col(ReservedUnitsRow.node), col(ReservedUnitsRow.sku), col(ReservedUnitsRow.quantity))
    )
    if shipment_id is not None:
        freed = freed.where(col(ReservedUnitsRow.shipment_id) == shipment_id)
    units = _summed([(node, sku, quantity) for node, sku, quantity in await session.execute(freed)])
    await _lock(session, units)
    await _add(session, units, reserved=-1)


async def release_all(session: AsyncSession, order_id: str) -> None:
    """Free whatever is held for an order that has ended, under whichever key."""
    keys = await session.scalars(
        select(col(ReservationRow.key))
        .where(col(ReservationRow.order_id) == order_id, col(ReservationRow.state) == ReservationState.HELD)
        .order_by(col(ReservationRow.key))
    )
    for key in keys.all():
        await release(session, key=key, order_id=order_id)


async def consume(session: AsyncSession, shipment_id: str) -> None:
    """The shipment left with the carrier: what was reserved for it is neither reserved nor on hand any more.

    Units that were freed, because the parcel left while it was being called off, are gone all the same; the shelf then
    holds no less than what others have reserved of it, until somebody counts. Doing it again changes nothing.
    """
    held = await _taken(session, shipment_id, UnitState.HELD)
    freed = await _taken(session, shipment_id, UnitState.RELEASED)
    await _lock(session, held | freed)
    await _add(session, held, reserved=-1, on_hand=-1)
    for (node, sku), quantity in freed.items():
        await session.execute(
            update(StockRow)
            .where(col(StockRow.node) == node, col(StockRow.sku) == sku)
            .values(on_hand=func.greatest(col(StockRow.on_hand) - quantity, col(StockRow.reserved)))
        )


async def _taken(session: AsyncSession, shipment_id: str, state: UnitState) -> dict[tuple[str, str], int]:
    rows = await session.execute(
        update(ReservedUnitsRow)
        .where(col(ReservedUnitsRow.shipment_id) == shipment_id, col(ReservedUnitsRow.state) == state)
        .values(state=UnitState.CONSUMED)
        .returning(col(ReservedUnitsRow.node), col(ReservedUnitsRow.sku), col(ReservedUnitsRow.quantity))
    )
    return _summed([(node, sku, quantity) for node, sku, quantity in rows])


async def _claim(
    session: AsyncSession, *, key: str, order_id: str, plan_id: str, expires_at: datetime
) -> bool:
    claimed = await session.scalar(
        insert(ReservationRow)
        .values(
            key=key,
            order_id=order_id,
            plan_id=plan_id,
            state=ReservationState.HELD,
            expires_at=expires_at,
            created_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(col(ReservationRow.key))
    )
    if claimed is not None:
        return True
    state = await session.scalar(
        select(col(ReservationRow.state)).where(col(ReservationRow.key) == key).with_for_update()
    )
    if state == ReservationState.RELEASED:
        raise Refused(f"reservation {key} was released")
    return False


async def _lock(session: AsyncSession, units: Units) -> dict[tuple[str, str], int]:
    """Lock the stock rows in their one order; answers what is available in each."""
    if not units:
        return {}
    rows = await session.execute(
        select(col(StockRow.node), col(StockRow.sku), col(StockRow.on_hand) - col(StockRow.reserved))
        .where(tuple_(col(StockRow.node), col(StockRow.sku)).in_(sorted(units)))
        .order_by(col(StockRow.node), col(StockRow.sku))
        .with_for_update(key_share=True)
    )
    return {(node, sku): available for node, sku, available in rows}


async def _add(session: AsyncSession, units: Units, *, reserved: int, on_hand: int = 0) -> None:
    """Change every row by its units times the two signs; the table's check has the last word."""
    if not units:
        return
    await session.execute(
        text(
            "UPDATE stock SET reserved = stock.reserved + :reserved * change.quantity, "
            "on_hand = stock.on_hand + :on_hand * change.quantity "
            "FROM unnest(CAST(:nodes AS text[]), CAST(:skus AS text[]), CAST(:quantities AS bigint[])) "
            "AS change (node, sku, quantity) WHERE stock.node = change.node AND stock.sku = change.sku"
        ),
        {
            "reserved": reserved,
            "on_hand": on_hand,
            "nodes": [node for node, _ in units],
            "skus": [sku for _, sku in units],
            "quantities": list(units.values()),
        },
    )


def _per_shipment(wanted: Sequence[Wanted]) -> dict[tuple[str, str, str], int]:
    # Two lines of one order may ask for the same SKU: together they must fit.
    units: dict[tuple[str, str, str], int] = defaultdict(int)
    for want in wanted:
        units[(want.shipment_id, want.node, want.sku)] += want.quantity
    return units


def _demand(units: Mapping[tuple[str, str, str], int]) -> dict[tuple[str, str], int]:
    return _summed([(node, sku, quantity) for (_, node, sku), quantity in units.items()])


def _summed(rows: Sequence[tuple[str, str, int]]) -> dict[tuple[str, str], int]:
    total: dict[tuple[str, str], int] = defaultdict(int)
    for node, sku, quantity in rows:
        total[(node, sku)] += quantity
    return total
