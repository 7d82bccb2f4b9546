"""Short and refused picks that a warehouse reports of itself: what is not on the shelf is not promised any more."""

import hashlib
from collections import Counter
from datetime import UTC, datetime

from activities.store import warehouse
from activities.store.record import record
from activities.store.store import Store
from models.errors import Conflict, InvalidDocument, NotFound, Refused
from models.identifiers import order_of_shipment
from models.journal import Carried, TimelineEntry
from models.messages import WmsEvent, WmsEventKind
from models.stock import ShortPick, SkuUnits

_WAREHOUSE = "warehouse"
_NOT_THERE = frozenset({WmsEventKind.SHORT, WmsEventKind.REFUSED})


async def correct_stock(store: Store, shipment_id: str, event: WmsEvent) -> None:
    """Take what a picker did not find out of stock and away from the shipment, once for an event however it comes.

    Nothing is done for an event that does not say what is missing. What cannot be corrected (the parcel has left, the
    SKU is not in it) stands on the order's timeline: the event is a fact all the same.
    """
    if event.kind not in _NOT_THERE or not event.missing:
        return
    document = _document(shipment_id, event)
    try:
        async with store.transaction() as session:
            await warehouse.short_pick(session, document)
    except (Conflict, InvalidDocument, NotFound, Refused) as refused:
        now, order_id = datetime.now(UTC), order_of_shipment(shipment_id)
        entry = TimelineEntry(
            entry_id=f"stock:{document.document_id}/uncorrected",
            order_id=order_id,
            shipment_id=shipment_id,
            at=now,
            business_at=now,
            actor=_WAREHOUSE,
            kind="stock.uncorrected",
            what="what the picker did not find could not be taken out of stock: have the shelf counted",
            why=refused.message[:1000],
            details={"event_id": event.event_id},
        )
        async with store.transaction() as session:
            await record(session, order_id, Carried(entries=(entry,)))


def _document(shipment_id: str, event: WmsEvent) -> ShortPick:
    """The same for the same event, whose own id may be longer than a document's can be."""
    digest = hashlib.sha256(f"{shipment_id} {event.event_id}".encode()).hexdigest()
    units: Counter[str] = Counter()
    for line in event.missing:
        units[line.sku] += line.quantity
    return ShortPick(
        document_id=f"wms-event:{digest[:32]}",
        actor=_WAREHOUSE,
        shipment_id=shipment_id,
        lines=tuple(SkuUnits(sku=sku, quantity=quantity) for sku, quantity in units.items()),
        reason=f"event {event.event_id}{f': {event.detail}' if event.detail else ''}",
    )
