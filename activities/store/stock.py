"""Reservations: every unit of a plan or none, never more than there is, whoever else is reserving."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.effects import Reservation, Shortage
from models.errors import Refused
from models.states import ShipmentState
from models.tables.orders import ShipmentRow
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

    An order holds its units once: what it holds under other keys, from before its run was reset, is freed with the new
    claim. Shipments that the warehouse has already are the exception: they keep what was reserved for them, and nothing
    more is reserved for them. The same key again changes nothing. Raises ``Refused`` when the reservation was released
    before it came.
    """
    if not await _claim(session, key=key, order_id=order_id, plan_id=plan_id, expires_at=expires_at):
        return Reservation(reserved=True)
    under_way = await _under_way(session, order_id)
    units = _per_shipment([want for want in wanted if want.shipment_id not in under_way])
    demand = _demand(units)
    superseded = _superseded(key, order_id, under_way)
    freed = _units(await _reserved(session, superseded))
    # One order of locking for everybody, so that two large orders cannot wait for each other for ever.
    found = await _lock(session, demand | freed)
    available = {row: found.get(row, 0) + freed.get(row, 0) for row in demand}
    missing = [
        Shortage(node=node, sku=sku, requested=asked, available=available[(node, sku)])
        for (node, sku), asked in sorted(demand.items())
        if available[(node, sku)] < asked
    ]
    if missing:
        # The key stays free: the same reservation may come again when there is stock.
        await session.execute(delete(ReservationRow).where(col(ReservationRow.key) == key))
        return Reservation(reserved=False, shortages=tuple(missing))
    if freed:
        await _forget(session, superseded)
        await _add(session, freed, reserved=-1)
    await _add(session, demand, reserved=+1)
    if units:
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
    holds no less than what others have reserved of it, until somebody counts. It leaves once: of several reservations
    for it one is consumed, and what the others hold is freed. Doing it again changes nothing.
    """
    rows = await _reserved(session, col(ReservedUnitsRow.shipment_id) == shipment_id)
    if any(row.state == UnitState.CONSUMED for row in rows):
        return
    key = await _key_that_left(session, shipment_id, rows)
    held = _units(row for row in rows if row.state == UnitState.HELD)
    left = _units(row for row in rows if row.state == UnitState.HELD and row.key == key)
    freed = _units(row for row in rows if row.state == UnitState.RELEASED and row.key == key)
    await _lock(session, held | freed)
    await session.execute(
        update(ReservedUnitsRow)
        .where(col(ReservedUnitsRow.shipment_id) == shipment_id)
        .values(
            state=case(
                (col(ReservedUnitsRow.key) == key, UnitState.CONSUMED.value), else_=UnitState.RELEASED.value
            )
        )
    )
    await _add(session, held, reserved=-1)
    await _add(session, left, reserved=0, on_hand=-1)
    for (node, sku), quantity in freed.items():
        await session.execute(
            update(StockRow)
            .where(col(StockRow.node) == node, col(StockRow.sku) == sku)
            .values(on_hand=func.greatest(col(StockRow.on_hand) - quantity, col(StockRow.reserved)))
        )


class _Reserved(NamedTuple):
    """A row of ``reserved_units``."""

    key: str
    node: str
    sku: str
    quantity: int
    state: str


async def _reserved(session: AsyncSession, which: ColumnElement[bool]) -> Sequence[_Reserved]:
    """The units of ``which`` reservations, locked until the transaction ends."""
    rows = await session.execute(
        select(
            col(ReservedUnitsRow.key),
            col(ReservedUnitsRow.node),
            col(ReservedUnitsRow.sku),
            col(ReservedUnitsRow.quantity),
            col(ReservedUnitsRow.state),
        )
        .where(which)
        .order_by(col(ReservedUnitsRow.key), col(ReservedUnitsRow.node), col(ReservedUnitsRow.sku))
        .with_for_update()
    )
    return [_Reserved(*row) for row in rows]


async def _key_that_left(session: AsyncSession, shipment_id: str, rows: Sequence[_Reserved]) -> str | None:
    """Which reservation a shipment's goods were of: where it left from, rather held than freed, rather the last."""
    if len(keys := {row.key for row in rows}) < 2:
        return next(iter(keys), None)
    node = await session.scalar(
        select(col(ShipmentRow.node)).where(col(ShipmentRow.shipment_id) == shipment_id)
    )
    found = await session.execute(
        select(col(ReservationRow.key), col(ReservationRow.created_at)).where(
            col(ReservationRow.key).in_(keys)
        )
    )
    made = {made_key: at for made_key, at in found}  # noqa: C416 - rows, not pairs, to a type checker
    return max(rows, key=lambda row: (row.node == node, row.state == UnitState.HELD, made[row.key])).key


async def _under_way(session: AsyncSession, order_id: str) -> set[str]:
    """The order's shipments that have begun and were not called off: picked or gone by what was reserved before."""
    return set(
        await session.scalars(
            select(col(ShipmentRow.shipment_id)).where(
                col(ShipmentRow.order_id) == order_id, col(ShipmentRow.state) != ShipmentState.CANCELLED
            )
        )
    )


def _superseded(key: str, order_id: str, under_way: Collection[str]) -> ColumnElement[bool]:
    """What the order holds under other keys than ``key``, for shipments that have not begun."""
    others = select(col(ReservationRow.key)).where(
        col(ReservationRow.order_id) == order_id, col(ReservationRow.key) != key
    )
    return and_(
        col(ReservedUnitsRow.key).in_(others),
        col(ReservedUnitsRow.state) == UnitState.HELD,
        col(ReservedUnitsRow.shipment_id).not_in(under_way),
    )


async def _forget(session: AsyncSession, superseded: ColumnElement[bool]) -> None:
    """As though never reserved: a run that is reset once more may come to one of these keys again."""
    keys = set(
        await session.scalars(delete(ReservedUnitsRow).where(superseded).returning(col(ReservedUnitsRow.key)))
    )
    await session.execute(
        delete(ReservationRow).where(
            col(ReservationRow.key).in_(keys),
            ~exists().where(col(ReservedUnitsRow.key) == col(ReservationRow.key)),
        )
    )


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


def _units(rows: Iterable[_Reserved]) -> dict[tuple[str, str], int]:
    return _summed([(row.node, row.sku, row.quantity) for row in rows])


def _summed(rows: Sequence[tuple[str, str, int]]) -> dict[tuple[str, str], int]:
    total: dict[tuple[str, str], int] = defaultdict(int)
    for node, sku, quantity in rows:
        total[(node, sku)] += quantity
    return total
