"""Reservations whose time is up: which there are, who still needs them, and what is done about each.

The time of a reservation is a question, not an answer: units are never taken from an order that goes on.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import stock
from activities.store.departing import leave
from activities.store.record import record
from models.base import Contract
from models.journal import Carried, TimelineEntry
from models.states import ORDER_TERMINAL, OrderState
from models.tables.orders import OrderRow
from models.tables.stock import ReservationRow

# One that takes a reservation up and dies leaves it to be taken up again then.
_TAKEN_FOR = timedelta(minutes=5)
_PLANNED_ANEW = frozenset(
    {
        OrderState.ASSESSING,
        OrderState.AUTHORISING,
        OrderState.AWAITING_CUSTOMER,
        OrderState.ROUTING,
        OrderState.BACKORDERED,
        OrderState.RESERVING,
        OrderState.IN_REVIEW,
        OrderState.NEEDS_OPERATOR,
    }
)


class Fate(StrEnum):
    """What is to become of an expired reservation, as far as the database knows.

    SPENT: it holds nothing any more. STRAY: nobody will ever come for some of it. ASK: its order is open, so that it
    depends on its run.
    """

    SPENT = "spent"
    STRAY = "stray"
    ASK = "ask"


class Expired(Contract):
    """A reservation whose time is up.

    ``strays`` are the shipments for which nobody will come, ``left`` those whose goods left the house long ago.
    """

    key: str
    order_id: str
    order_state: OrderState | None
    fate: Fate
    strays: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


async def take_expired(session: AsyncSession, limit: int) -> list[Expired]:
    """Reservations whose time is up, oldest first; nobody else is given them for some minutes."""
    now = datetime.now(UTC)
    rows = await session.execute(
        text(_TAKE),
        {"now": now, "until": now + _TAKEN_FOR, "most": limit},
    )
    return [_judged(row) for row in rows.mappings()]


def _judged(row: Any) -> Expired:
    state = None if row["order_state"] is None else OrderState(row["order_state"])
    ended = state is None or state in ORDER_TERMINAL
    # Of an order that has ended, what no shipment is under way for; of an open one, what was called off since, unless
    # it is called off to be planned anew: then the order still has a claim to it.
    strays = tuple(row["unneeded"] if ended else () if state in _PLANNED_ANEW else row["called_off"])
    left = tuple(row["gone"] if ended else ())
    if not row["holds"]:
        fate = Fate.SPENT
    elif strays or left:
        fate = Fate.STRAY
    else:
        fate = Fate.ASK
    return Expired(
        key=row["key"], order_id=row["order_id"], order_state=state, fate=fate, strays=strays, left=left
    )


# A shipment that was called off before the reservation was made is one that a reset run is about to make anew.
_TAKE = """
WITH due AS (
    SELECT key, order_id, created_at FROM reservations
     WHERE state = 'held' AND expires_at < :now
     ORDER BY expires_at LIMIT :most FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE reservations SET expires_at = :until FROM due WHERE reservations.key = due.key
)
SELECT due.key, due.order_id, orders.state AS order_state,
       EXISTS (SELECT FROM reserved_units WHERE key = due.key AND state = 'held') AS holds,
       ARRAY(SELECT DISTINCT units.shipment_id FROM reserved_units AS units
               LEFT JOIN shipments ON shipments.shipment_id = units.shipment_id
              WHERE units.key = due.key AND units.state = 'held'
                AND coalesce(shipments.state, 'cancelled') = 'cancelled' AND shipments.handed_over_at IS NULL
              ORDER BY 1) AS unneeded,
       ARRAY(SELECT DISTINCT units.shipment_id FROM reserved_units AS units
               JOIN shipments ON shipments.shipment_id = units.shipment_id
              WHERE units.key = due.key AND units.state = 'held' AND shipments.handed_over_at IS NOT NULL
              ORDER BY 1) AS gone,
       ARRAY(SELECT DISTINCT units.shipment_id FROM reserved_units AS units
               JOIN shipments ON shipments.shipment_id = units.shipment_id
              WHERE units.key = due.key AND units.state = 'held'
                AND shipments.state = 'cancelled' AND shipments.updated_at > due.created_at ORDER BY 1) AS called_off
  FROM due LEFT JOIN orders ON orders.order_id = due.order_id
 ORDER BY due.key
"""


async def extend(session: AsyncSession, key: str, until: datetime | None) -> None:
    """The reservation is good until then; None: it holds nothing that could expire."""
    await session.execute(
        update(ReservationRow).where(col(ReservationRow.key) == key).values(expires_at=until)
    )


async def free(session: AsyncSession, expired: Expired) -> int:
    """Free what nobody will come for; answers how many units that was: none if the order has gone on meanwhile.

    What left the house is taken out of the stock instead.
    """
    state = await session.scalar(
        select(col(OrderRow.state)).where(col(OrderRow.order_id) == expired.order_id).with_for_update()
    )
    if state != expired.order_state:
        return 0
    why = f"its order is {state}" if state is not None else "there is no such order"
    if state is not None and state not in ORDER_TERMINAL:
        why = "its shipment was called off"
    why = f"the reservation expired, and nobody comes for it: {why}"
    freed = 0
    for shipment_id in expired.left:
        await leave(session, shipment_id)
    for shipment_id in expired.strays:
        units = await stock.release(
            session, key=expired.key, order_id=expired.order_id, shipment_id=shipment_id, reason=why
        )
        freed += units
        if units:
            await record(
                session, expired.order_id, Carried(entries=(_entry(expired, shipment_id, units, why),))
            )
    return freed


def _entry(expired: Expired, shipment_id: str, units: int, why: str) -> TimelineEntry:
    now = datetime.now(UTC)
    return TimelineEntry(
        entry_id=f"{expired.key}/expired/{shipment_id}",
        order_id=expired.order_id,
        shipment_id=shipment_id,
        at=now,
        business_at=now,
        kind="stock.expired",
        what=f"{units} reserved unit{'s are' if units != 1 else ' is'} free again",
        why=why,
        details={"reservation": expired.key, "units": units},
    )
