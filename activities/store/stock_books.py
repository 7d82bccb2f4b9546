"""The books of stock, held against each other: rows, their lots and movements, and what is reserved for whom."""

from enum import StrEnum
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store.lots import today
from models.base import Contract
from models.states import ORDER_TERMINAL


class StockTrouble(StrEnum):
    """What can be wrong. Only what expires comes about by itself; the database's own triggers and checks do not let the
    rest happen, but a fault could.
    """

    MOVEMENTS_DIFFER = "movements_differ"
    RESERVATIONS_DIFFER = "reservations_differ"
    HELD_FOR_NOBODY = "held_for_nobody"
    ALLOCATION_DIFFERS = "allocation_differs"
    LOTS_DIFFER = "lots_differ"
    EXPIRED = "expired"


class StockDifference(Contract):
    """A stock row, a reservation or a lot (``source``) that does not agree with what it should follow from."""

    trouble: StockTrouble
    node: str
    sku: str
    source: str = ""
    found: int
    expected: int
    what: str


class StockAccount(Contract):
    """How much was compared, and what differs; at most ``LISTED`` differences of each kind."""

    rows: int
    movements: int
    held: int
    unexplained: int
    differences: tuple[StockDifference, ...] = ()


LISTED = 1_000


async def reconcile(session: AsyncSession) -> StockAccount:
    """Compare everything with everything, at one moment. It reads every movement: minutes for many millions of them."""
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    counts = (await session.execute(text(_COUNTS))).one()
    return StockAccount(
        rows=counts.rows,
        movements=counts.movements,
        held=counts.held,
        unexplained=counts.unexplained,
        differences=(
            *await _differences(session, StockTrouble.MOVEMENTS_DIFFER, _MOVEMENTS),
            *await _differences(session, StockTrouble.RESERVATIONS_DIFFER, _RESERVED),
            *await _differences(session, StockTrouble.HELD_FOR_NOBODY, _NOBODY, ended=sorted(ORDER_TERMINAL)),
            *await _differences(session, StockTrouble.ALLOCATION_DIFFERS, _COUNTED),
            *await _differences(session, StockTrouble.LOTS_DIFFER, _LOTS),
            *await _differences(session, StockTrouble.EXPIRED, _EXPIRED, today=today()),
        ),
    )


async def miscounted(session: AsyncSession, most: int) -> list[StockDifference]:
    """The counters of rules alone, at most so many."""
    return await _differences(session, StockTrouble.ALLOCATION_DIFFERS, _COUNTED, most=most)


async def _differences(
    session: AsyncSession, trouble: StockTrouble, query: str, most: int = LISTED, **values: Any
) -> list[StockDifference]:
    rows = await session.execute(text(query), {"most": most, **values})
    return [StockDifference(trouble=trouble, **row) for row in rows.mappings()]


_COUNTS = """
SELECT (SELECT count(*) FROM stock) AS rows,
       (SELECT count(*) FROM stock_movements) AS movements,
       (SELECT count(*) FROM stock_movements WHERE kind = 'unexplained') AS unexplained,
       (SELECT count(*) FROM reserved_units WHERE state = 'held') AS held
"""

# A row that is gone has movements that come to nothing.
_MOVEMENTS = """
SELECT node, sku, kind.found, kind.expected, kind.what
  FROM (SELECT node, sku, on_hand, reserved FROM stock) AS level
  FULL JOIN (SELECT node, sku, sum(on_hand)::bigint AS on_hand, sum(reserved)::bigint AS reserved
               FROM stock_movements GROUP BY node, sku) AS moved USING (node, sku)
 CROSS JOIN LATERAL (VALUES
    (coalesce(level.on_hand, 0), coalesce(moved.on_hand, 0), 'on hand, and the sum of its movements'),
    (coalesce(level.reserved, 0), coalesce(moved.reserved, 0), 'reserved, and the sum of its movements')
   ) AS kind (found, expected, what)
 WHERE kind.found <> kind.expected
 ORDER BY node, sku LIMIT :most
"""

_RESERVED = """
SELECT node, sku, level.reserved AS found, coalesce(held.quantity, 0) AS expected,
       'reserved, and what reservations hold' AS what
  FROM stock AS level
  LEFT JOIN (SELECT node, sku, sum(quantity)::bigint AS quantity
               FROM reserved_units WHERE state = 'held' GROUP BY node, sku) AS held USING (node, sku)
 WHERE level.reserved <> coalesce(held.quantity, 0)
 ORDER BY node, sku LIMIT :most
"""

# An order that has ended holds nothing, except for parcels of it that are still on their way out.
_NOBODY = """
SELECT units.node, units.sku, reservations.key AS source, units.quantity AS found, 0 AS expected,
       CASE WHEN orders.order_id IS NULL THEN 'held for an order that does not exist'
            ELSE 'held for an order that is ' || orders.state END AS what
  FROM reserved_units AS units
  JOIN reservations USING (key)
  LEFT JOIN orders USING (order_id)
  LEFT JOIN shipments ON shipments.shipment_id = units.shipment_id
 WHERE units.state = 'held'
   AND (orders.order_id IS NULL OR orders.state = ANY (:ended))
   AND coalesce(shipments.state, 'cancelled') = 'cancelled'
 ORDER BY reservations.key, units.node, units.sku LIMIT :most
"""

_COUNTED = """
SELECT node, sku, rule_id AS source, coalesce(counter.used, 0) AS found, coalesce(units.used, 0) AS expected,
       'counted for a rule, and the units that it is about' AS what
  FROM stock_allocation_use AS counter
  FULL JOIN stock_allocation_counted() AS units USING (rule_id, sku, node)
 WHERE coalesce(counter.used, 0) <> coalesce(units.used, 0)
 ORDER BY rule_id, sku, node LIMIT :most
"""

# Lots against their stock row, their movements and what reservations have of them; and a row without lots has none.
_LOTS = """
WITH lots AS (SELECT node, sku, lot, expires_on, on_hand, reserved FROM stock_lots),
moved AS (SELECT node, sku, lot, sum(on_hand)::bigint AS on_hand, sum(reserved)::bigint AS reserved
            FROM stock_lot_movements GROUP BY node, sku, lot),
held AS (SELECT node, sku, lot, sum(units.quantity)::bigint AS quantity
           FROM reserved_lots AS units JOIN reserved_units USING (key, shipment_id, node, sku)
          WHERE state = 'held' GROUP BY node, sku, lot),
given AS (SELECT key, shipment_id, node, sku, sum(quantity)::bigint AS quantity FROM reserved_lots
           GROUP BY key, shipment_id, node, sku)
SELECT node, sku, '' AS source, kind.found, kind.expected, kind.what
  FROM stock AS level
  LEFT JOIN (SELECT node, sku, sum(on_hand)::bigint AS on_hand, sum(reserved)::bigint AS reserved
               FROM lots GROUP BY node, sku) AS together USING (node, sku)
 CROSS JOIN LATERAL (VALUES
    (coalesce(together.on_hand, 0), CASE WHEN level.lots THEN level.on_hand ELSE 0 END,
     'on hand in its lots, and on its row'),
    (coalesce(together.reserved, 0), CASE WHEN level.lots THEN level.reserved ELSE 0 END,
     'reserved in its lots, and on its row')) AS kind (found, expected, what)
 WHERE kind.found <> kind.expected
 UNION ALL
SELECT node, sku, lot, kind.found, kind.expected, kind.what
  FROM lots LEFT JOIN moved USING (node, sku, lot) LEFT JOIN held USING (node, sku, lot)
 CROSS JOIN LATERAL (VALUES
    (lots.on_hand, coalesce(moved.on_hand, 0), 'on hand in a lot, and the sum of its movements'),
    (lots.reserved, coalesce(moved.reserved, 0), 'reserved in a lot, and the sum of its movements'),
    (lots.reserved, coalesce(held.quantity, 0), 'reserved in a lot, and what reservations have of it'))
    AS kind (found, expected, what)
 WHERE kind.found <> kind.expected
 UNION ALL
SELECT units.node, units.sku, units.key, coalesce(given.quantity, 0), units.quantity, 'in lots, and held'
  FROM reserved_units AS units JOIN stock AS level USING (node, sku)
  LEFT JOIN given USING (key, shipment_id, node, sku)
 WHERE level.lots AND units.state = 'held' AND coalesce(given.quantity, 0) <> units.quantity
 ORDER BY 1, 2, 3, 6 LIMIT :most
"""

# A person has to write these off; what is reserved of them is for an order that has to be planned anew.
_EXPIRED = """
SELECT node, sku, lot AS source, on_hand AS found, 0 AS expected,
       'expired on ' || expires_on || CASE WHEN reserved > 0 THEN ', ' || reserved || ' of them reserved' ELSE '' END
       || ': write them off' AS what
  FROM stock_lots WHERE expires_on < :today AND on_hand > 0
 ORDER BY node, sku, expires_on, lot LIMIT :most
"""
