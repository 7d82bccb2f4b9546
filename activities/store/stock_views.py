"""Stock as people look at it."""

from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store.lots import lots_to_show
from models.errors import NotFound
from models.stock import LotMovement, Movement, NodeStock, StockView
from models.tables.stock import StockLotMovementRow, StockMovementRow


async def stock_view(session: AsyncSession, sku: str, *, movements: int) -> StockView:
    """``sku`` at every node with its last ``movements``. Raises ``NotFound`` for what was never stocked."""
    lots = await lots_to_show(session, sku)
    nodes = [
        NodeStock.model_validate({**row, "lots": lots.get(row["node"], ())})
        for row in (await session.execute(text(_NODES), {"sku": sku})).mappings()
    ]
    rows = await session.scalars(
        select(StockMovementRow)
        .where(col(StockMovementRow.sku) == sku)
        .order_by(col(StockMovementRow.movement_id).desc())
        .limit(max(movements, 1))
    )
    moved = [Movement.model_validate(row.model_dump()) for row in rows.all()]
    if not nodes and not moved:
        raise NotFound("this SKU was never stocked at any node: look at its spelling")
    available = _sum(nodes, "available")
    shared = await session.scalar(text(_SHARED), {"sku": sku})
    if shared is not None:
        available = max(min(available, shared), 0)
    return StockView(
        sku=sku,
        on_hand=_sum(nodes, "on_hand"),
        reserved=_sum(nodes, "reserved"),
        available=available,
        in_transit=_sum(nodes, "in_transit"),
        nodes=tuple(nodes),
        movements=tuple(moved[:movements]),
        lot_movements=await _lot_movements(session, sku, movements),
    )


async def _lot_movements(session: AsyncSession, sku: str, most: int) -> tuple[LotMovement, ...]:
    rows = await session.scalars(
        select(StockLotMovementRow)
        .where(col(StockLotMovementRow.sku) == sku)
        .order_by(col(StockLotMovementRow.movement_id).desc())
        .limit(most)
    )
    return tuple(LotMovement.model_validate(row.model_dump() | {"lot": row.lot or None}) for row in rows)


def _sum(nodes: list[NodeStock], field: str) -> int:
    values: Any = (getattr(node, field) for node in nodes)
    return sum(values)


# What rules leave of all nodes together to anybody.
_SHARED = (
    "SELECT min(allowed.shared) FROM stock, stock_allowed(stock, NULL, NULL) AS allowed WHERE sku = :sku"
)
# A node that only waits for a transfer is one of the places where the goods are.
_NODES = """
SELECT node, coalesce(on_hand, 0) AS on_hand, coalesce(reserved, 0) AS reserved,
       coalesce(safety_stock, 0) AS safety_stock,
       coalesce(available, 0) AS available,
       coalesce(in_transit, 0) AS in_transit
  FROM (SELECT node, on_hand, reserved, safety_stock, stock_open_to(stock, NULL, NULL) AS available
          FROM stock WHERE sku = :sku) AS level
  FULL JOIN (SELECT to_node AS node, sum(quantity - received - lost)::bigint AS in_transit
               FROM stock_transfers WHERE sku = :sku AND closed_at IS NULL GROUP BY to_node) AS way USING (node)
 ORDER BY node
"""
