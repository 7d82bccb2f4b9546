"""Shipments that leave: what they take out of stock, also where their units had been given to somebody else."""

import hashlib

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store import stock, warehouse
from models.stock import Departure, SkuUnits


async def leave(session: AsyncSession, shipment_id: str) -> None:
    """The shipment left with the carrier: what was reserved for it is neither reserved nor on hand any more.

    Units that were freed, because the parcel left while it was being called off, are gone all the same: promises that
    others were given on them and that do not fit any more are released, as by a count. Doing it again changes nothing.
    """
    freed = (await session.execute(text(_FREED), {"shipment_id": shipment_id})).all()
    if freed:
        digest = hashlib.sha256(shipment_id.encode()).hexdigest()
        document = Departure(
            document_id=f"left:{digest[:32]}",
            actor="carrier",
            node=freed[0].node,
            shipment_id=shipment_id,
            lines=tuple(SkuUnits(sku=row.sku, quantity=row.quantity) for row in freed),
        )
        await warehouse.make_way(session, document)
    await stock.consume(session, shipment_id)


# Of the reservation that ``stock_consume`` takes it from: one node, a row for each SKU.
_FREED = """
SELECT units.node, units.sku, units.quantity
  FROM reserved_units AS units
 WHERE units.shipment_id = :shipment_id AND units.state = 'released' AND units.quantity > 0
   AND units.key = (
       SELECT choice.key FROM reserved_units AS choice
         JOIN reservations USING (key)
         LEFT JOIN shipments ON shipments.shipment_id = choice.shipment_id
        WHERE choice.shipment_id = :shipment_id
          AND NOT EXISTS (SELECT FROM reserved_units WHERE shipment_id = :shipment_id AND state = 'consumed')
        ORDER BY (choice.node = shipments.node) IS TRUE DESC, choice.state = 'held' DESC,
                 reservations.created_at DESC
        LIMIT 1)
 ORDER BY units.sku
"""
