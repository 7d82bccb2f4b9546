"""Parcels that left with fewer units than their customers paid for: what is to be paid back."""

from collections import Counter
from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store.plans import shares_of, stored_plan
from models.effects import ShortParcel
from models.money import Money
from policies.money import LineUnits, of_refund

CAUSE = "short_parcel"


async def short_parcels(
    session: AsyncSession, order_id: str, currency: str, reference: Callable[[str, str], str]
) -> tuple[tuple[ShortParcel, ...], list[str]]:
    """The order's parcels that were paid in full and left without units that a picker did not find; and a sentence for
    each of which nobody can say what its units cost, as it is not planned as it was charged.

    ``reference`` answers by which id a capture of ours is paid back, from its key and the provider's id.

    Only a picker's word counts here: what a count or a damage took from a parcel may lie in it all the same.
    """
    rows = (await session.execute(text(_SHORT), {"order_id": order_id, "cause": CAUSE})).all()
    missing: dict[int, Counter[str]] = {}
    for row in rows:
        missing.setdefault(row.number, Counter())[row.sku] += row.quantity
    if not missing:
        return (), []
    shares = await shares_of(session, order_id)
    found, unclear = [], []
    for number, units in missing.items():
        row = next(row for row in rows if row.number == number)
        share = shares.get(number)
        if share is None:
            unclear.append(
                f"shipment {row.shipment_id} left without {units.total()} units, and what they cost is not known: "
                "pay it back at the provider"
            )
            continue
        plan = await stored_plan(session, order_id, share.plan_id)
        lines = next(shipment.lines for shipment in plan.shipments if shipment.number == number)
        lost = []
        for line in lines:
            if quantity := min(line.quantity, units[line.sku]):
                units[line.sku] -= quantity
                lost.append(LineUnits(line_id=line.line_id, quantity=quantity))
        due = min(of_refund(share.share, lost).total, row.kept)
        if due > 0:
            found.append(
                ShortParcel(
                    shipment_id=row.shipment_id,
                    number=number,
                    units=sum(one.quantity for one in lost),
                    capture_id=reference(row.capture_key, row.provider_ref),
                    amount=Money(minor=due, currency=currency),
                )
            )
    return tuple(found), unclear


# A parcel is short by what was taken from the very reservation that left; one that was paid back already is not.
_SHORT = """
SELECT shipments.number, lost.shipment_id, lost.sku, lost.quantity, paid.kept,
       taken.key AS capture_key, taken.provider_ref
  FROM stock_released AS lost
  JOIN stock_documents USING (document_id)
  JOIN shipments USING (shipment_id)
  JOIN LATERAL (
       SELECT coalesce(sum(CASE kind WHEN 'capture' THEN amount_minor ELSE -amount_minor END), 0)::bigint AS kept,
              bool_or(kind = 'refund' AND cause = :cause) AS settled
         FROM payment_operations AS moved
        WHERE moved.shipment_id = lost.shipment_id AND kind IN ('capture', 'refund')
          AND moved.state IN ('intended', 'confirmed')) AS paid ON NOT paid.settled
  JOIN LATERAL (
       SELECT key, provider_ref FROM payment_operations AS moved
        WHERE moved.shipment_id = lost.shipment_id AND kind = 'capture' AND state = 'confirmed'
        ORDER BY key LIMIT 1) AS taken ON true
 WHERE lost.order_id = :order_id AND stock_documents.kind = 'shortpick'
   AND shipments.state NOT IN ('lost', 'returned', 'cancelled')
   AND EXISTS (SELECT FROM reserved_units AS units
                WHERE units.key = lost.reservation AND units.shipment_id = lost.shipment_id
                  AND units.state = 'consumed')
 ORDER BY shipments.number, lost.released_id
"""
