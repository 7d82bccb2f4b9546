"""Queue ``oms-shipping``: picks and labels, and calling them off."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from activities.exactly_once import Effect, Meaning, carry_out
from activities.failures import speaks_temporal
from activities.implements import implements
from activities.ports import Carrier, PickLine, Warehouse
from activities.store import lots, operations
from activities.store.operations import ShippingOperation
from activities.store.plans import planned_draft, planned_shipment
from activities.store.record import record
from activities.store.short_picks import correct_stock
from activities.store.store import Store
from models.effects import (
    BuyLabel,
    CancelPick,
    CheckPick,
    Interception,
    InterceptParcel,
    Label,
    ParcelProgress,
    PickProgress,
    PickRequested,
    RequestPick,
    TrackParcel,
    Undone,
    VoidLabel,
)
from models.messages import MOST_MISSING_LINES, MissingUnits, WmsEvent, WmsEventKind
from models.operations import OperationState, ShippingKind
from models.plan import PlannedLine, PlannedShipment
from models.stock import LotUnits
from workflows import steps


class ShippingActivities:
    """Talk to the warehouse and to the carrier."""

    def __init__(self, store: Store, warehouse: Warehouse, carrier: Carrier) -> None:
        self._store = store
        self._warehouse = warehouse
        self._carrier = carrier

    @implements(steps.REQUEST_PICK)
    @speaks_temporal
    async def request_pick(self, effect: RequestPick) -> PickRequested:
        """Ask the shipment's node to pick it, of the lots that are reserved for it.

        Where the goods will not be good for the customer any more, and no other lot is, it is answered as though the
        warehouse refused: a person decides.
        """
        planned = await self._planned(effect)
        operation = _operation(effect, ShippingKind.PICK)
        async with self._store.transaction() as session:
            # What the warehouse was told once stays so.
            if not await operations.was_intended(session, operation):
                await lots.keep_good(session, effect.shipment_id)
            to_pick = await lots.lots_to_pick(session, effect.shipment_id)
            spoiled = await lots.no_longer_good(session, effect.shipment_id)

        async def ask() -> PickRequested:
            if spoiled is not None:
                return PickRequested(accepted=False, pick_id=None, reason=f"lot_expired: {spoiled}")
            return await self._warehouse.request_pick(
                key=effect.key,
                node=planned.node,
                shipment_id=effect.shipment_id,
                lines=_pick_lines(planned.lines, to_pick),
                business_now=effect.business_now,
            )

        async def undo(_pick: PickRequested) -> None:
            await self._warehouse.cancel_pick(key=f"{effect.key}:undo", pick_key=effect.key)

        answer = await carry_out(
            self._store,
            Effect(
                operation=operation,
                carried=effect.carried,
                gives=PickRequested,
                ask=ask,
                look_up=lambda: self._warehouse.find_pick(key=effect.key),
                means=lambda pick: _accepted(pick.accepted, pick.pick_id),
                undo=undo,
                by_hand=effect.by_hand,
            ),
        )
        for number, missing in enumerate(_in_parts(answer.missing)):
            refused = WmsEvent(
                event_id=f"refused:{number}:{effect.key}"[:128],
                kind=WmsEventKind.REFUSED,
                occurred_at=effect.business_now,
                pick_id=answer.pick_id or "",
                detail=answer.reason,
                missing=missing,
            )
            await correct_stock(self._store, effect.shipment_id, refused)
        return answer

    @implements(steps.BUY_LABEL)
    @speaks_temporal
    async def buy_label(self, effect: BuyLabel) -> Label:
        """Buy the label of the planned service, at the planned price."""
        planned = await self._planned(effect)
        async with self._store.transaction() as session:
            draft = await planned_draft(session, effect.order_id, effect.plan_id)

        async def ask() -> Label:
            return await self._carrier.buy_label(
                key=effect.key,
                carrier=planned.carrier,
                service=planned.service,
                shipment_id=effect.shipment_id,
                node=planned.node,
                ship_to=draft.ship_to,
                recipient=draft.customer.name,
                weight_g=planned.weight_g,
                transit_days=planned.transit_days,
                price=planned.freight,
                business_now=effect.business_now,
            )

        async def undo(_label: Label) -> None:
            await self._carrier.void_label(key=f"{effect.key}:undo", label_key=effect.key)

        return await carry_out(
            self._store,
            Effect(
                operation=_operation(effect, ShippingKind.LABEL),
                carried=effect.carried,
                gives=Label,
                ask=ask,
                look_up=lambda: self._carrier.find_label(key=effect.key),
                means=lambda label: _accepted(label.accepted, label.label_id),
                undo=undo,
                by_hand=effect.by_hand,
            ),
        )

    @implements(steps.CHECK_PICK)
    @speaks_temporal
    async def check_pick(self, look: CheckPick) -> PickProgress:
        """What became of a pick. What the picker did not find is taken out of stock, as when the warehouse tells it."""
        await self._write(look)
        events = await self._warehouse.progress_of_pick(key=look.pick_key)
        for event in events:
            await correct_stock(self._store, look.shipment_id, event)
        return PickProgress(events=events)

    @implements(steps.TRACK_PARCEL)
    @speaks_temporal
    async def track_parcel(self, look: TrackParcel) -> ParcelProgress:
        """What the carrier has seen of a parcel."""
        await self._write(look)
        return ParcelProgress(events=await self._carrier.scans(key=look.label_key))

    @implements(steps.INTERCEPT_PARCEL)
    @speaks_temporal
    async def intercept_parcel(self, effect: InterceptParcel) -> Interception:
        """Ask the carrier to bring a parcel back. Its scans will say whether it really does."""
        # Asking again under the same key is safe, so a lost answer needs no look-up.
        return await carry_out(
            self._store,
            Effect(
                operation=ShippingOperation(
                    key=effect.key,
                    order_id=effect.order_id,
                    shipment_id=effect.shipment_id,
                    kind=ShippingKind.INTERCEPT,
                    parent=effect.label_key,
                ),
                carried=effect.carried,
                gives=Interception,
                ask=lambda: self._carrier.intercept(
                    key=effect.key, label_key=effect.label_key, business_now=effect.business_now
                ),
                means=lambda answer: _accepted(answer.accepted, None),
            ),
        )

    @implements(steps.CANCEL_PICK)
    @speaks_temporal
    async def cancel_pick(self, effect: CancelPick) -> Undone:
        """Call a pick off; one that is asked for later is refused, here and by the warehouse."""
        return await self._call_off(
            effect,
            ShippingKind.CANCEL_PICK,
            undoes=_other(effect, ShippingKind.PICK, effect.pick_key),
            ask=lambda: self._warehouse.cancel_pick(key=effect.key, pick_key=effect.pick_key),
        )

    @implements(steps.VOID_LABEL)
    @speaks_temporal
    async def void_label(self, effect: VoidLabel) -> Undone:
        """Give a label back, unless the carrier has the parcel; one that is bought later is refused."""
        return await self._call_off(
            effect,
            ShippingKind.VOID_LABEL,
            undoes=_other(effect, ShippingKind.LABEL, effect.label_key),
            ask=lambda: self._carrier.void_label(key=effect.key, label_key=effect.label_key),
        )

    async def _call_off(
        self,
        effect: CancelPick | VoidLabel,
        kind: ShippingKind,
        *,
        undoes: ShippingOperation,
        ask: Callable[[], Awaitable[Undone]],
    ) -> Undone:
        # Asking again under the same key is safe, so a lost answer needs no look-up.
        undone = await carry_out(
            self._store,
            Effect(
                operation=_operation(effect, kind, parent=undoes.key),
                carried=effect.carried,
                gives=Undone,
                ask=ask,
                means=lambda answer: _accepted(answer.undone, None),
                by_hand={"undone": True, "reason": "undone by hand"} if effect.by_hand else None,
            ),
        )
        if undone.undone:
            async with self._store.transaction() as session:
                await operations.call_off(session, undoes)
        return undone

    async def _write(self, look: CheckPick | TrackParcel) -> None:
        async with self._store.transaction() as session:
            await record(session, look.order_id, look.carried)

    async def _planned(self, effect: RequestPick | BuyLabel) -> PlannedShipment:
        async with self._store.transaction() as session:
            return await planned_shipment(session, effect.order_id, effect.plan_id, effect.number)


def _pick_lines(
    lines: Sequence[PlannedLine], to_pick: Mapping[str, Sequence[LotUnits]]
) -> tuple[PickLine, ...]:
    """Lines with their lots: the first to expire for the first line, if several are of one SKU."""
    left = {sku: list(of_sku) for sku, of_sku in to_pick.items()}
    found = []
    for line in lines:
        missing, parts = line.quantity, list[LotUnits]()
        while missing and left.get(line.sku):
            lot = left[line.sku].pop(0)
            part = min(missing, lot.quantity)
            parts.append(lot.model_copy(update={"quantity": part}))
            missing -= part
            if part < lot.quantity:
                left[line.sku].insert(0, lot.model_copy(update={"quantity": lot.quantity - part}))
        found.append(PickLine(**line.model_dump(), lots=tuple(parts)))
    return tuple(found)


def _operation(
    effect: RequestPick | BuyLabel | CancelPick | VoidLabel, kind: ShippingKind, parent: str | None = None
) -> ShippingOperation:
    return ShippingOperation(
        key=effect.key, order_id=effect.order_id, shipment_id=effect.shipment_id, kind=kind, parent=parent
    )


def _other(effect: CancelPick | VoidLabel, kind: ShippingKind, key: str) -> ShippingOperation:
    return ShippingOperation(key=key, order_id=effect.order_id, shipment_id=effect.shipment_id, kind=kind)


def _accepted(accepted: bool, reference: str | None) -> Meaning:
    return Meaning(OperationState.CONFIRMED if accepted else OperationState.DECLINED, reference)


def _in_parts(missing: tuple[MissingUnits, ...]) -> list[tuple[MissingUnits, ...]]:
    """As many at a time as an event may name."""
    return [
        missing[start : start + MOST_MISSING_LINES] for start in range(0, len(missing), MOST_MISSING_LINES)
    ]
