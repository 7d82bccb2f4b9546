"""A shop with a payment provider and a carrier of its own, in whose books tests plant what differs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from activities.implements import step_of
from activities.payments import PaymentActivities
from activities.ports import Carrier, PaymentProvider
from activities.reconciliation import (
    LabelReconciliation,
    MoneyReconciliation,
    ReconciliationActivities,
    StockReconciliation,
    Terms,
)
from activities.store import reads, stock
from activities.store import reconciliation as books
from activities.store.reconciliation import DifferenceView, RunView
from activities.store.store import Store
from models.effects import AuthorisePayment, CapturePayment
from models.journal import Carried
from models.money import Money
from models.order import Address
from models.reconciliation import (
    Area,
    BeginReconciliation,
    DifferenceState,
    FinishReconciliation,
    Tally,
)
from models.review import ReviewTask, Verdict
from models.states import OrderState, ShipmentState
from tests.activities.running import run
from tests.builders import NOON, a_draft, a_shipment, accepted, carrying, gbp, skus_of, stocked, write_down

TOTAL = gbp(1395)
AT_ONCE = Terms(grace=timedelta(0))


@dataclass
class Shop:
    """A database of its own, a payment provider and a carrier of its own, and the reconciliation between them."""

    store: Store
    payments: PaymentProvider
    carrier: Carrier
    terms: Terms = AT_ONCE
    runs: int = 0

    @property
    def money(self) -> PaymentActivities:
        return PaymentActivities(self.store, self.payments)

    async def order(self) -> str:
        return await accepted(self.store, a_draft())

    async def authorised(self, amount: Money = TOTAL) -> tuple[str, str]:
        """An order and the provider's reference of what is held for it."""
        order_id = await self.order()
        answer = await run(
            self.money.authorise_payment,
            AuthorisePayment(order_id=order_id, amount=amount, key=f"order:{order_id}:authorise:1"),
        )
        assert answer.authorisation_id is not None
        return order_id, answer.authorisation_id

    async def captured(self, order_id: str, authorisation: str, **changes: Any) -> str:
        capture = CapturePayment(
            order_id=order_id,
            shipment_id=f"{order_id}:1",
            authorisation_id=authorisation,
            amount=TOTAL,
            key=f"shipment:{order_id}:1:capture:1",
        )
        return (await run(self.money.capture_payment, capture.model_copy(update=changes))).capture_id

    async def is_now(self, order_id: str, state: OrderState, version: int = 50) -> None:
        ended = {"closed_at": NOON} if state in (OrderState.CLOSED, OrderState.CANCELLED) else {}
        await write_down(self.store, order_id, carrying(order_id, state, version, **ended))

    async def ship(self, order_id: str, state: ShipmentState, **changes: Any) -> str:
        shipment = a_shipment(order_id, state=state, **changes)
        await write_down(self.store, order_id, Carried(shipment=shipment))
        return shipment.shipment_id

    async def label(self, shipment_id: str, key: str = "", price: int = 395) -> str:
        """A label that the carrier sells, and that our books know nothing of."""
        sold = await self.carrier.buy_label(
            key=key or f"somebody:{shipment_id}",
            carrier="islandpost",
            service="tracked48",
            shipment_id=shipment_id,
            node="north",
            ship_to=Address(lines=("7 Hidden Lane",), city="Leeds", postcode="LS1 4DY", country="GB"),
            recipient="Wilhelmina",
            weight_g=400,
            transit_days=2,
            price=gbp(price),
            business_now=NOON,
        )
        assert sold.label_id is not None
        return sold.label_id

    async def know_label(self, shipment_id: str, label_id: str | None, key: str, **changes: Any) -> None:
        """Write a label into our books."""
        row = {
            "key": key,
            "order_id": shipment_id.rpartition(":")[0],
            "shipment_id": shipment_id,
            "state": "confirmed",
            "ref": label_id,
            "cost": 395,
        } | changes
        await self.sql(
            "INSERT INTO shipping_operations (key, order_id, shipment_id, kind, state, provider_ref, answer,"
            " intended_at, answered_at) VALUES (:key, :order_id, :shipment_id, 'label', :state, :ref,"
            " jsonb_build_object('accepted', true, 'cost', jsonb_build_object('minor', CAST(:cost AS int),"
            " 'currency', 'GBP')), now() - interval '1 hour', now() - interval '1 hour')",
            **row,
        )

    async def reserved(self, *, units: int = 2) -> str:
        """An order with so many units reserved for its first shipment."""
        draft = a_draft()
        order_id = await accepted(self.store, draft)
        (sku,) = skus_of(draft)
        await stocked(self.store, north={sku: 10_000})
        async with self.store.transaction() as session:
            answer = await stock.reserve(
                session,
                key=f"order:{order_id}:reserve:1",
                order_id=order_id,
                plan_id=f"{order_id}:1",
                wanted=[stock.Wanted(shipment_id=f"{order_id}:1", node="north", sku=sku, quantity=units)],
                expires_at=NOON,
            )
        assert answer.reserved
        return order_id

    async def sql(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        async with self.store.transaction() as session:
            result = await session.execute(text(statement), values)
            return [dict(row) for row in result.mappings()] if statement.startswith("SELECT") else []

    async def past_every_trigger(self, statement: str) -> None:
        """As a superuser could who should not."""
        async with self.store.transaction() as session:
            await session.execute(text("SET LOCAL session_replication_role = replica"))
            await session.execute(text(statement))

    # --- reconciling ---
    async def reconcile(self, area: Area, *, everything: bool = False) -> RunView:
        """One run, step by step as the workflow takes them."""
        self.runs += 1
        run_id = f"reconciliation:{area}:{self.runs}"
        steps = ReconciliationActivities(self.store)
        begun = await run(
            steps.begin_reconciliation, BeginReconciliation(run_id=run_id, area=area, everything=everything)
        )
        tally = Tally()
        for part in self._parts(area):
            cursor: str | None = ""
            while cursor is not None:
                step = step_of(part)
                assert step is not None
                asked = step.takes(run_id=run_id, since=begun.since, cursor=cursor)
                answer = await run(part, asked)
                tally += getattr(answer, "tally", Tally())
                cursor = answer.cursor
        await run(steps.finish_reconciliation, FinishReconciliation(run_id=run_id, area=area, tally=tally))
        async with self.store.transaction() as session:
            view = await books.run(session, run_id)
        assert view is not None
        return view

    def _parts(self, area: Area) -> Sequence[Callable[..., Any]]:
        if area is Area.MONEY:
            money = MoneyReconciliation(self.store, self.payments, self.terms)
            return (money.read_payment_statement, money.compare_money)
        if area is Area.LABELS:
            labels = LabelReconciliation(self.store, self.carrier, self.terms)
            return (labels.read_carrier_statement, labels.compare_labels)
        goods = StockReconciliation(self.store, self.terms)
        return (goods.compare_reservations, goods.compare_stock)

    async def differences(self, state: DifferenceState | None = None) -> tuple[DifferenceView, ...]:
        async with self.store.transaction() as session:
            return (await books.differences(session, state=state, limit=500)).differences

    async def only_difference(self) -> DifferenceView:
        (difference,) = await self.differences()
        return difference

    async def task(self) -> ReviewTask:
        """The one task that waits."""
        difference = await self.only_difference()
        assert difference.task_id is not None
        async with self.store.transaction() as session:
            task = await reads.review(session, difference.task_id)
        assert task is not None
        return task

    async def answers(self, verdict: Verdict) -> None:
        """A person answers the one task that waits."""
        task = await self.task()
        async with self.store.transaction() as session:
            await books.decide(session, task.task_id, verdict, actor="dana", reason="talked to them")

    async def timeline(self, order_id: str) -> list[Any]:
        async with self.store.transaction() as session:
            return [
                one for one in await reads.timeline(session, order_id) if one.kind == "reconciliation.healed"
            ]
