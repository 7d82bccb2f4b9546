"""Queue ``oms-inventory``: reserve and free units."""

from temporalio import activity

from activities.failures import speaks_temporal
from activities.implements import implements
from activities.store import stock
from activities.store.plans import stored_plan
from activities.store.record import record
from activities.store.reserving import Reserver
from activities.store.stock import Claim, Wanted
from activities.store.store import Store
from models.effects import Nothing, ReleaseReservation, Reservation, ReserveStock
from models.identifiers import shipment_id
from workflows import steps


class InventoryActivities:
    """Stock is rows under a constraint: nothing here reads first and writes later."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reserver = Reserver(store)

    @implements(steps.RESERVE_STOCK)
    @speaks_temporal
    async def reserve_stock(self, effect: ReserveStock) -> Reservation:
        """Reserve what the plan says, where it says so: all of it, or the shortages.

        Raises ``Refused`` when the order has ended, and when it has gone on to another plan: this is then an attempt
        that was given up long ago.
        """
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            plan = await stored_plan(session, effect.order_id, effect.plan_id)
        # By itself, after all else: nobody who wants the same units waits while this process is busy. What makes it
        # refused is looked at there once more, with the order locked.
        reservation = await self._reserver.reserve(
            Claim(
                key=effect.key,
                order_id=effect.order_id,
                plan_id=effect.plan_id,
                expires_at=effect.expires_at,
                wanted=tuple(
                    Wanted(
                        shipment_id=shipment_id(effect.order_id, shipment.number),
                        node=shipment.node,
                        sku=line.sku,
                        quantity=line.quantity,
                        promised_at=shipment.promised_at,
                    )
                    for shipment in plan.shipments
                    for line in shipment.lines
                ),
            )
        )
        for shortage in reservation.shortages:
            _count_shortage(shortage.node)
        return reservation

    @implements(steps.RELEASE_RESERVATION)
    @speaks_temporal
    async def release_reservation(self, effect: ReleaseReservation) -> Nothing:
        """Free what is still held under the reservation's key."""
        async with self._store.transaction() as session:
            await record(session, effect.order_id, effect.carried)
            await stock.release(
                session,
                key=effect.reservation_key,
                order_id=effect.order_id,
                shipment_id=effect.shipment_id,
            )
        return Nothing()


def _count_shortage(node: str) -> None:
    """By node, not by SKU: there are too many of those for a time series each."""
    activity.metric_meter().create_counter(
        "orderwright_stock_shortages", "Stock rows that were short when a plan was to be reserved, by node"
    ).add(1, {"node": node})
