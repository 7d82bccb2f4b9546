"""Goods that back-ordered orders wait for: which runs are to look at the stock again."""

import json

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store import policies
from models.base import Contract
from models.messages import StockArrived
from models.states import OrderState


class Arrival(Contract):
    """There is more of something that an order waits for; ``movement_id`` is the last change that made it so."""

    order_id: str
    movement_id: int
    sku: str
    node: str
    kind: str

    @property
    def message(self) -> StockArrived:
        """As the order's run is told. The same arrival makes the same event, however often it is told."""
        return StockArrived(
            event_id=f"stock-arrived-{self.movement_id}",
            actor="warehouse",
            reason=f"{self.sku} at {self.node}: {self.kind}"[:1000],
        )


async def arrivals(session: AsyncSession, limit: int) -> list[Arrival]:
    """The back-ordered orders for which there is more than when they looked.

    In the order of the policy's priorities; among equals whoever was placed first is first.
    """
    priorities = (await policies.active(session)).document.priorities
    values = {
        "state": OrderState.BACKORDERED.value,
        "limit": limit,
        "priorities": json.dumps([rule.model_dump(mode="json") for rule in priorities]),
    }
    rows = await session.execute(text(_ARRIVALS), values)
    return [Arrival.model_validate(row) for row in rows.mappings()]


# What a part that went ahead has enough of is not waited for.
# A run looks before it writes down that it waits: what came in between is told as well. A run remembers what it heard.
_ARRIVALS = """
SELECT waiting.order_id, came.movement_id, came.sku, came.node, came.kind
  FROM orders AS waiting
 CROSS JOIN LATERAL (
       SELECT last.movement_id, last.at, last.kind, level.sku, level.node
         FROM (SELECT asked.sku FROM order_lines AS asked WHERE asked.order_id = waiting.order_id
                GROUP BY asked.sku
               HAVING sum(asked.quantity) > coalesce((
                      SELECT sum(units.quantity)
                        FROM shipments JOIN reserved_units AS units USING (shipment_id)
                       WHERE shipments.order_id = waiting.order_id AND shipments.state <> 'cancelled'
                         AND units.sku = asked.sku AND units.state <> 'released'), 0)) AS line
         JOIN stock AS level USING (sku)
        CROSS JOIN LATERAL (
              SELECT movement_id, at, kind FROM stock_movements AS moved
               WHERE moved.sku = level.sku AND moved.node = level.node AND moved.on_hand > moved.reserved
               ORDER BY movement_id DESC LIMIT 1) AS last
        WHERE stock_committable(level, waiting.order_id) > 0
        ORDER BY last.movement_id DESC LIMIT 1) AS came
 WHERE waiting.state = :state AND NOT waiting.needs_review
   AND came.at > waiting.updated_at - interval '1 minute'
 ORDER BY (SELECT CAST(rule -> 'rank' AS integer)
             FROM jsonb_array_elements(CAST(:priorities AS jsonb)) WITH ORDINALITY AS listed (rule, place)
            WHERE (rule -> 'channels' = '[]' OR rule -> 'channels' ? waiting.channel)
              AND (rule -> 'tiers' = '[]' OR rule -> 'tiers' ? waiting.customer_tier)
              AND (rule -> 'customer_types' = '[]' OR rule -> 'customer_types' ? waiting.customer_type)
              AND (rule -> 'countries' = '[]' OR rule -> 'countries' ? waiting.ship_country)
            ORDER BY place LIMIT 1) NULLS LAST,
          waiting.placed_at, waiting.order_id
 LIMIT :limit
"""
