"""What stock is worth where it lies: what it is worked out from, the last runs, and what orders are given of them."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store.reads import cursor_of, read_cursor
from models.tables.values import StockValueRow, StockValueRunRow
from models.values import ValuesWorkedOut
from policies.routing.problem import KnownValues, StockFigures

# So many SKUs one run looks at: those that sell most, then those of which most lies there.
MOST_SKUS = 20_000
_RUNS_KEPT = 3
_ROWS_AT_ONCE = 10_000


class Sold(NamedTuple):
    """``units`` of a SKU in ``lines`` order lines to a country."""

    sku: str
    country: str
    lines: int
    units: int


class Shelf(NamedTuple):
    """What lies of a SKU at an active node: ``available`` can be promised. ``sold`` None: not there for the window."""

    sku: str
    node: str
    on_hand: int
    available: int
    sold: int | None


class Window(NamedTuple):
    """Orders that came in within the window, since ``first``, with their units."""

    orders: int
    units: int
    first: datetime | None


class Chosen(NamedTuple):
    """The SKUs that a run looks at, and how many it does not."""

    skus: tuple[str, ...]
    left_out: int


async def window(session: AsyncSession, since: datetime, until: datetime) -> Window:
    """How many orders with how many units came in between two moments; rejected ones do not count."""
    row = (await session.execute(text(_WINDOW), {"since": since, "until": until})).one()
    return Window(*row)


async def skus_to_value(
    session: AsyncSession, since: datetime, until: datetime, most: int = MOST_SKUS
) -> Chosen:
    """The SKUs on the shelves of active nodes, those that sold most first, at most ``most``."""
    rows = (await session.execute(text(_SKUS), {"since": since, "until": until, "most": most})).all()
    return Chosen(tuple(row.sku for row in rows), (rows[0].every - len(rows)) if rows else 0)


async def sold(session: AsyncSession, skus: Sequence[str], since: datetime, until: datetime) -> list[Sold]:
    """What was ordered of ``skus``, by country."""
    values = {"skus": list(skus), "since": since, "until": until}
    return [Sold(*row) for row in await session.execute(text(_SOLD), values)]


async def shelves(
    session: AsyncSession, skus: Sequence[str], since: datetime, until: datetime
) -> list[Shelf]:
    """What lies of ``skus`` at active nodes, and what was sold from there."""
    values = {"skus": list(skus), "since": since, "until": until}
    return [Shelf(*row) for row in await session.execute(text(_SHELVES), values)]


async def next_supply(session: AsyncSession, skus: Sequence[str], today: datetime) -> dict[str, int]:
    """In how many days more of a SKU is expected at an active node, at least 1; those of which some is."""
    rows = await session.execute(text(_SUPPLY), {"skus": list(skus), "today": today.date()})
    return {row.sku: max(1, row.days) for row in rows}


async def run_of(session: AsyncSession, run_id: str) -> ValuesWorkedOut | None:
    """What a run found; None: there is none of this id any more."""
    row = await session.get(StockValueRunRow, run_id)
    return None if row is None else ValuesWorkedOut.model_validate(row.result)


async def last_run(session: AsyncSession) -> ValuesWorkedOut | None:
    """What the last run found."""
    found = await session.scalar(
        select(col(StockValueRunRow.result))
        .order_by(col(StockValueRunRow.worked_out_at).desc(), col(StockValueRunRow.run_id))
        .limit(1)
    )
    return None if found is None else ValuesWorkedOut.model_validate(found)


async def keep_run(session: AsyncSession, result: ValuesWorkedOut, figures: Iterable[StockFigures]) -> None:
    """Keep what a run found, and of the runs before it the last few. The run must not be there yet."""
    session.add(
        StockValueRunRow(
            run_id=result.run_id,
            worked_out_at=result.worked_out_at,
            result=result.model_dump(mode="json"),
        )
    )
    await session.flush()
    rows: list[dict[str, Any]] = []
    for one in figures:
        rows.append(one.model_dump())
        if len(rows) == _ROWS_AT_ONCE:
            await _insert(session, result.run_id, rows)
            rows = []
    await _insert(session, result.run_id, rows)
    await session.execute(text(_FORGET_VALUES), {"kept": _RUNS_KEPT})
    await session.execute(text(_FORGET_RUNS), {"kept": _RUNS_KEPT})


async def known_values(session: AsyncSession, skus: Collection[str]) -> KnownValues | None:
    """What the last run found of ``skus``; None: there was none."""
    run = await last_run(session)
    if run is None:
        return None
    rows = await session.scalars(
        select(StockValueRow)
        .where(col(StockValueRow.run_id) == run.run_id, col(StockValueRow.sku).in_(sorted(skus)))
        .order_by(col(StockValueRow.sku), col(StockValueRow.node))
    )
    return _known(run, (_figures(row) for row in rows))


async def values_page(
    session: AsyncSession, run: ValuesWorkedOut, sku: str | None, cursor: str | None, limit: int
) -> tuple[KnownValues, str | None]:
    """What ``run`` found, by SKU and node: of one SKU, or of all in pages of ``limit`` SKUs.

    Raises ``InvalidDocument`` for a cursor that is none.
    """
    query = select(StockValueRow).where(col(StockValueRow.run_id) == run.run_id)
    if sku is not None:
        query = query.where(col(StockValueRow.sku) == sku)
    skus = select(col(StockValueRow.sku)).where(col(StockValueRow.run_id) == run.run_id).distinct()
    if cursor is not None:
        skus = skus.where(col(StockValueRow.sku) > read_cursor(cursor)[1])
    page = list(await session.scalars(skus.order_by(col(StockValueRow.sku)).limit(limit + 1)))
    if sku is None:
        query = query.where(col(StockValueRow.sku).in_(page[:limit]))
    rows = await session.scalars(query.order_by(col(StockValueRow.sku), col(StockValueRow.node)))
    following = cursor_of(run.worked_out_at, page[limit - 1]) if sku is None and len(page) > limit else None
    return _known(run, (_figures(row) for row in rows)), following


def _known(run: ValuesWorkedOut, figures: Iterable[StockFigures]) -> KnownValues:
    return KnownValues(
        run_id=run.run_id,
        worked_out_at=run.worked_out_at,
        method=run.method,
        window_days=run.window_days,
        least_lines=run.least_lines,
        figures=tuple(figures),
    )


def _figures(row: StockValueRow) -> StockFigures:
    return StockFigures.model_validate(row.model_dump(exclude={"run_id"}))


async def _insert(session: AsyncSession, run_id: str, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        # One statement with arrays: rows of bound values would take seconds to compile.
        columns = {
            name: [row[name] for row in rows] for name in ("sku", "node", "price_mills", "sold", "on_hand")
        }
        await session.execute(text(_INSERT), {"run_id": run_id, **columns})


_WINDOW = """
SELECT count(*) AS orders, coalesce(sum(unit_count), 0)::bigint AS units, min(created_at) AS first
  FROM orders WHERE created_at >= :since AND created_at < :until AND state <> 'rejected'
"""

_SKUS = """
WITH ordered AS (
    SELECT line.sku, sum(line.quantity) AS units
      FROM order_lines AS line JOIN orders USING (order_id)
     WHERE orders.created_at >= :since AND orders.created_at < :until AND orders.state <> 'rejected'
     GROUP BY line.sku),
held AS (
    SELECT sku, sum(on_hand) AS on_hand
      FROM stock JOIN nodes ON node_id = node WHERE active AND on_hand > 0 GROUP BY sku)
SELECT held.sku, count(*) OVER () AS every
  FROM held LEFT JOIN ordered USING (sku)
 ORDER BY coalesce(ordered.units, 0) DESC, held.on_hand DESC, held.sku
 LIMIT :most
"""

_SOLD = """
SELECT line.sku, orders.ship_country, count(*) AS lines, sum(line.quantity)::bigint AS units
  FROM order_lines AS line JOIN orders USING (order_id)
 WHERE orders.created_at >= :since AND orders.created_at < :until AND orders.state <> 'rejected'
   AND line.sku = ANY (CAST(:skus AS text[]))
 GROUP BY line.sku, orders.ship_country
 ORDER BY line.sku, orders.ship_country
"""

# Sold is what was promised to orders from there and not freed again. A row whose first movement is younger than the
# window has not been there for all of it.
_SHELVES = """
WITH gone AS (
    SELECT units.node, units.sku, sum(units.quantity)::bigint AS units
      FROM reservations AS holding JOIN reserved_units AS units USING (key)
     WHERE holding.created_at >= :since AND holding.created_at < :until AND units.state <> 'released'
     GROUP BY units.node, units.sku)
SELECT stock.sku, stock.node, stock.on_hand,
       greatest(stock.on_hand - stock.reserved - stock.safety_stock, 0) AS available,
       CASE WHEN began.at < :since THEN coalesce(gone.units, 0) END AS sold
  FROM stock
  JOIN nodes ON node_id = stock.node AND active
  LEFT JOIN gone ON gone.node = stock.node AND gone.sku = stock.sku
  LEFT JOIN LATERAL (
       SELECT at FROM stock_movements AS moved
        WHERE moved.sku = stock.sku AND moved.node = stock.node
        ORDER BY movement_id LIMIT 1) AS began ON true
 WHERE stock.on_hand > 0 AND stock.sku = ANY (CAST(:skus AS text[]))
 ORDER BY stock.sku, stock.node
"""

_SUPPLY = """
SELECT sku, min(expected_on) - CAST(:today AS date) AS days
  FROM inbound_supply JOIN nodes ON node_id = node
 WHERE received < quantity AND active AND sku = ANY (CAST(:skus AS text[]))
 GROUP BY sku
"""

_INSERT = """
INSERT INTO stock_values (run_id, sku, node, price_mills, sold, on_hand)
SELECT :run_id, sku, node, price_mills, sold, on_hand
  FROM unnest(CAST(:sku AS text[]), CAST(:node AS text[]), CAST(:price_mills AS bigint[]),
              CAST(:sold AS bigint[]), CAST(:on_hand AS bigint[])) AS row (sku, node, price_mills, sold, on_hand)
"""

_OLD = """
 WHERE run_id NOT IN (SELECT run_id FROM stock_value_runs ORDER BY worked_out_at DESC, run_id LIMIT :kept)
"""
_FORGET_VALUES = f"DELETE FROM stock_values {_OLD}"  # noqa: S608 - both parts are ours
_FORGET_RUNS = f"DELETE FROM stock_value_runs {_OLD}"  # noqa: S608 - both parts are ours
