"""Routing, picks, labels, messages: each once, and called off for good."""

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from activities.notify import NotifyActivities, ReviewDesk
from activities.ports import MessageGateway, SentMessage, Warehouse
from activities.routing import RoutingActivities
from activities.shipping import ShippingActivities
from activities.store import stock, warehouse
from activities.store.lots import today
from activities.store.network import StockLevel, seed_stock
from activities.store.plans import planned_shipment
from activities.store.stock import Wanted
from activities.store.store import Store
from models.effects import (
    Audience,
    BuyLabel,
    CancelPick,
    InterceptParcel,
    Notify,
    PickRequested,
    RequestPick,
    RouteOrder,
    Template,
    VoidLabel,
)
from models.messages import MissingUnits, Refusal
from models.money import Money
from models.plan import PlanSummary
from models.stock import Receipt, ReceivedUnits
from tests.activities.conftest import Street
from tests.activities.running import failure_of, losing, run
from tests.builders import NOON, a_draft, accepted, gbp, skus_of, stocked


@pytest.fixture
def shipping(store: Store, street: Street) -> ShippingActivities:
    return ShippingActivities(store, street.near.warehouse, street.near.carrier)


def routing_of(order_id: str, attempt: int = 1) -> RouteOrder:
    return RouteOrder(order_id=order_id, attempt=attempt, business_now=NOON)


async def routed(routing: RoutingActivities, store: Store) -> PlanSummary:
    """An order with a plan of one shipment."""
    draft = a_draft()
    order_id = await accepted(store, draft)
    await stocked(store, north={skus_of(draft)[0]: 10})
    answer = await run(routing.route_order, routing_of(order_id))
    assert answer.plan is not None
    return answer.plan


def order_of(plan: PlanSummary) -> str:
    return plan.plan_id.rpartition(":")[0]


def picking(plan: PlanSummary) -> RequestPick:
    order_id = order_of(plan)
    return RequestPick(
        order_id=order_id,
        shipment_id=f"{order_id}:1",
        plan_id=plan.plan_id,
        number=1,
        business_now=NOON,
        key=f"shipment:{order_id}:1:pick:1",
    )


def labelling(plan: PlanSummary) -> BuyLabel:
    order_id = order_of(plan)
    return BuyLabel(
        order_id=order_id,
        shipment_id=f"{order_id}:1",
        plan_id=plan.plan_id,
        number=1,
        business_now=NOON,
        key=f"shipment:{order_id}:1:label:1",
    )


def cancelling(pick: RequestPick) -> CancelPick:
    return CancelPick(
        order_id=pick.order_id, shipment_id=pick.shipment_id, pick_key=pick.key, key=f"{pick.key}:cancel"
    )


def voiding(label: BuyLabel) -> VoidLabel:
    return VoidLabel(
        order_id=label.order_id,
        shipment_id=label.shipment_id,
        label_key=label.key,
        key=f"{label.key}:void",
    )


# --- route ---
async def test_an_attempt_has_one_plan_also_when_the_stock_changed_meanwhile(
    routing: RoutingActivities, store: Store
) -> None:
    plan = await routed(routing, store)
    assert plan.shipments[0].node == "north"
    await stocked(store, south={})
    again = await run(routing.route_order, routing_of(order_of(plan)))
    assert again.plan == plan
    second = await run(routing.route_order, routing_of(order_of(plan), attempt=2))
    assert second.plan is None
    assert second.unfillable


async def test_the_shares_of_a_split_order_add_up_to_its_total(
    routing: RoutingActivities, store: Store
) -> None:
    draft = a_draft(lines=3, quantity=1, price=333)
    first, second, third = skus_of(draft)
    await stocked(store, north={first: 1, second: 1}, south={third: 1})
    order_id = await accepted(store, draft)
    answer = await run(routing.route_order, routing_of(order_id))
    assert answer.plan is not None
    amounts = [shipment.amount for shipment in answer.plan.shipments]
    assert len(amounts) == 2
    assert Money.total(amounts, "GBP") == gbp(3 * 333 + 395)
    assert amounts[1] < amounts[0]
    assert answer.plan.goods_value == gbp(999)


async def test_what_others_reserved_is_not_promised_again(routing: RoutingActivities, store: Store) -> None:
    draft = a_draft(quantity=2, allow_partial=False)
    sku = skus_of(draft)[0]
    await stocked(store, north={})
    async with store.transaction() as session:
        await seed_stock(session, [StockLevel(node="north", sku=sku, on_hand=3)])
        await session.execute(text("UPDATE stock SET reserved = 2 WHERE sku = :sku"), {"sku": sku})
    order_id = await accepted(store, draft)
    answer = await run(routing.route_order, routing_of(order_id))
    assert answer.plan is None
    assert "1 of 2 units" in answer.unfillable[0]


async def test_routing_an_unknown_order_fails_for_good(routing: RoutingActivities) -> None:
    failure = await failure_of(routing.route_order, routing_of("web:none"))
    assert (failure.type, failure.non_retryable) == ("not_found", True)


# --- pick and label ---
async def test_a_pick_is_requested_once_also_when_its_answer_is_lost(
    routing: RoutingActivities, store: Store, street: Street
) -> None:
    pick = picking(await routed(routing, store))
    forgetful = ShippingActivities(
        store, losing(street.near.warehouse, "request_pick", "find_pick", times=2), street.near.carrier
    )
    failure = await failure_of(forgetful.request_pick, pick)
    assert (failure.type, failure.non_retryable) == ("outcome_unknown", False)
    first = await run(forgetful.request_pick, pick)
    assert first.accepted
    assert await run(forgetful.request_pick, pick) == first
    assert len(street.effects("warehouse", kind="pick", reference=pick.shipment_id)) == 1


async def reserved_in_lots(routing: RoutingActivities, store: Store) -> tuple[RequestPick, str]:
    """A pick of three units that are reserved in two lots, L1 (two, the first to expire) and L2, and their SKU."""
    draft = a_draft(quantity=3)
    (sku,) = skus_of(draft)
    await stocked(store, north={sku: 0}, south={})
    soon, late = today() + timedelta(days=30), today() + timedelta(days=300)
    lines = (
        ReceivedUnits(sku=sku, quantity=2, lot="L1", expires_on=soon),
        ReceivedUnits(sku=sku, quantity=3, lot="L2", expires_on=late),
    )
    async with store.transaction() as session:
        await warehouse.receive(
            session, Receipt(document_id=f"GRN-{sku}", actor="wms", node="north", lines=lines)
        )
    order_id = await accepted(store, draft)
    answer = await run(routing.route_order, routing_of(order_id))
    assert answer.plan is not None
    async with store.transaction() as session:
        reserved = await stock.reserve(
            session,
            key=f"order:{order_id}:reserve:1",
            order_id=order_id,
            plan_id=answer.plan.plan_id,
            wanted=[Wanted(shipment_id=f"{order_id}:1", node="north", sku=sku, quantity=3)],
            expires_at=NOON,
        )
    assert reserved.reserved
    return picking(answer.plan), sku


async def expire(store: Store, sku: str, lot: str) -> None:
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE stock_lots SET expires_on = :day WHERE sku = :sku AND lot = :lot"),
            {"day": today() - timedelta(days=1), "sku": sku, "lot": lot},
        )


async def test_a_pick_names_the_lots_that_are_reserved_and_others_when_those_expired_meanwhile(
    routing: RoutingActivities, shipping: ShippingActivities, store: Store, street: Street
) -> None:
    def lots_of(pick: RequestPick) -> list[tuple[str, int]]:
        with sqlite3.connect(street.simulators["warehouse"].data_dir / "warehouse.sqlite") as books:
            (details,) = books.execute("select details from effects where key = ?", (pick.key,)).fetchone()
        return [(lot["lot"], lot["quantity"]) for lot in json.loads(details)["lots"]]

    pick, _ = await reserved_in_lots(routing, store)
    assert (await run(shipping.request_pick, pick)).accepted
    assert lots_of(pick) == [("L1", 2), ("L2", 1)]
    pick, sku = await reserved_in_lots(routing, store)
    await expire(store, sku, "L1")
    assert (await run(shipping.request_pick, pick)).accepted
    assert lots_of(pick) == [("L2", 3)]


async def test_a_pick_of_nothing_but_expired_goods_is_never_asked_for(
    routing: RoutingActivities, shipping: ShippingActivities, store: Store, street: Street
) -> None:
    pick, sku = await reserved_in_lots(routing, store)
    await expire(store, sku, "L1")
    await expire(store, sku, "L2")
    answer = await run(shipping.request_pick, pick)
    assert not answer.accepted
    assert answer.reason.startswith(f"lot_expired: 2 of {sku} in lot L1")
    assert street.effects("warehouse", kind="pick", reference=pick.shipment_id) == []
    assert await run(shipping.request_pick, pick) == answer


class EmptyShelf:
    """A warehouse that takes no pick, whatever is asked for."""

    def __init__(self, warehouse: Warehouse, refused: PickRequested) -> None:
        self._warehouse, self._refused = warehouse, refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._warehouse, name)

    async def request_pick(self, **_: Any) -> PickRequested:
        return self._refused


async def test_goods_that_are_missing_from_a_refused_pick_are_out_of_stock_once(
    routing: RoutingActivities, store: Store, street: Street
) -> None:
    plan = await routed(routing, store)
    pick = picking(plan)
    async with store.transaction() as session:
        planned = await planned_shipment(session, pick.order_id, plan.plan_id, 1)
        (line,) = planned.lines
        await stock.reserve(
            session,
            key=f"order:{pick.order_id}:reserve:1",
            order_id=pick.order_id,
            plan_id=plan.plan_id,
            wanted=[
                Wanted(shipment_id=pick.shipment_id, node=planned.node, sku=line.sku, quantity=line.quantity)
            ],
            expires_at=datetime.now(UTC) + timedelta(days=1),
        )
    refused = PickRequested(
        accepted=False,
        reason="not_on_hand",
        refusal=Refusal.OUT_OF_STOCK,
        missing=(MissingUnits(sku=line.sku, quantity=line.quantity),),
    )
    shipping = ShippingActivities(store, EmptyShelf(street.near.warehouse, refused), street.near.carrier)
    answer = await run(shipping.request_pick, pick)
    assert (answer.accepted, answer.refusal) == (False, Refusal.OUT_OF_STOCK)
    assert [(one.sku, one.quantity) for one in answer.missing] == [(line.sku, line.quantity)]
    assert await run(shipping.request_pick, pick) == answer
    async with store.transaction() as session:
        row = (
            await session.execute(
                text("SELECT on_hand, reserved FROM stock WHERE node = :node AND sku = :sku"),
                {"node": planned.node, "sku": line.sku},
            )
        ).one()
    assert tuple(row) == (10 - line.quantity, 0)


async def test_a_label_is_bought_once_also_when_its_answer_is_lost(
    routing: RoutingActivities, store: Store, street: Street
) -> None:
    label = labelling(await routed(routing, store))
    forgetful = ShippingActivities(
        store, street.near.warehouse, losing(street.near.carrier, "buy_label", "find_label", times=2)
    )
    assert (await failure_of(forgetful.buy_label, label)).type == "outcome_unknown"
    first = await run(forgetful.buy_label, label)
    assert first.accepted
    assert first.tracking
    assert await run(forgetful.buy_label, label) == first
    assert len(street.effects("carrier", kind="label", reference=label.shipment_id)) == 1


async def test_a_pick_called_off_stays_called_off(
    routing: RoutingActivities, shipping: ShippingActivities, store: Store, street: Street
) -> None:
    pick = picking(await routed(routing, store))
    await run(shipping.request_pick, pick)
    for _ in range(2):
        assert (await run(shipping.cancel_pick, cancelling(pick))).undone
    assert (await failure_of(shipping.request_pick, pick)).type == "refused"
    picks = street.effects("warehouse", kind="pick", reference=pick.shipment_id)
    assert [effect["state"] for effect in picks] == ["cancelled"]


async def test_a_pick_called_off_before_it_was_asked_for_is_never_made(
    routing: RoutingActivities, shipping: ShippingActivities, store: Store, street: Street
) -> None:
    pick = picking(await routed(routing, store))
    assert (await run(shipping.cancel_pick, cancelling(pick))).undone
    failure = await failure_of(shipping.request_pick, pick)
    assert (failure.type, failure.non_retryable) == ("refused", True)
    assert street.effects("warehouse", kind="pick", reference=pick.shipment_id) == []


async def test_a_label_is_given_back_once_also_when_the_answer_is_lost(
    routing: RoutingActivities, store: Store, street: Street
) -> None:
    label = labelling(await routed(routing, store))
    forgetful = ShippingActivities(store, street.near.warehouse, losing(street.near.carrier, "void_label"))
    await run(forgetful.buy_label, label)
    assert (await failure_of(forgetful.void_label, voiding(label))).type == "outcome_unknown"
    assert (await run(forgetful.void_label, voiding(label))).undone
    assert (await failure_of(forgetful.buy_label, label)).type == "refused"
    labels = street.effects("carrier", kind="label", reference=label.shipment_id)
    assert [effect["state"] for effect in labels] == ["voided"]


async def test_a_parcel_is_asked_back_once_also_when_the_answer_is_lost(
    routing: RoutingActivities, store: Store, street: Street
) -> None:
    label = labelling(await routed(routing, store))
    forgetful = ShippingActivities(store, street.near.warehouse, losing(street.near.carrier, "intercept"))
    await run(forgetful.buy_label, label)
    wish = InterceptParcel(
        order_id=label.order_id,
        shipment_id=label.shipment_id,
        label_key=label.key,
        business_now=NOON,
        key=f"{label.key}:intercept",
    )
    assert (await failure_of(forgetful.intercept_parcel, wish)).type == "outcome_unknown"
    first = await run(forgetful.intercept_parcel, wish)
    assert not first.accepted and first.reason.startswith("not_collected")
    assert await run(forgetful.intercept_parcel, wish) == first


async def test_what_a_person_called_off_is_written_down_and_not_asked_for(
    routing: RoutingActivities, shipping: ShippingActivities, store: Store, street: Street
) -> None:
    request = await routed(routing, store)
    pick, label = picking(request), labelling(request)
    await run(shipping.request_pick, pick)
    await run(shipping.buy_label, label)
    by_hand = {"by_hand": True}
    assert (await run(shipping.cancel_pick, cancelling(pick).model_copy(update=by_hand))).undone
    assert (await run(shipping.void_label, voiding(label).model_copy(update=by_hand))).undone
    assert (await failure_of(shipping.request_pick, pick)).type == "refused"
    states = [
        street.effects(who, kind=kind, reference=pick.shipment_id)[0]["state"]
        for who, kind in (("warehouse", "pick"), ("carrier", "label"))
    ]
    assert states == ["accepted", "bought"], "the neighbours were not asked"


async def test_a_shipment_that_the_plan_does_not_have_is_not_found(
    routing: RoutingActivities, shipping: ShippingActivities, store: Store
) -> None:
    pick = picking(await routed(routing, store)).model_copy(update={"number": 7})
    assert (await failure_of(shipping.request_pick, pick)).type == "not_found"


# --- messages ---
DESK = ReviewDesk(reviewers="reviewers@shop.test", escalation="lead@shop.test")


def telling(order_id: str, audience: Audience = Audience.CUSTOMER) -> Notify:
    return Notify(
        order_id=order_id,
        audience=audience,
        template=Template.ORDER_CONFIRMED,
        facts={"order": order_id},
        key=f"order:{order_id}:notify:{audience}",
    )


async def test_a_customer_is_told_once_also_when_the_answer_is_lost(store: Store, street: Street) -> None:
    order_id = await accepted(store, a_draft())
    notify = NotifyActivities(store, losing(street.near.messages, "send"), DESK)
    failure = await failure_of(notify.notify, telling(order_id))
    assert (failure.type, failure.non_retryable) == ("outcome_unknown", False)
    first = await run(notify.notify, telling(order_id))
    assert first.sent
    assert await run(notify.notify, telling(order_id)) == first


async def test_a_guest_without_an_address_is_not_told_and_nothing_fails(store: Store, street: Street) -> None:
    order_id = await accepted(store, a_draft(customer={"name": "A Guest"}))
    notify = NotifyActivities(store, street.near.messages, DESK)
    for _ in range(2):
        assert not (await run(notify.notify, telling(order_id))).sent


class Postbag:
    """The gateway, and to whom messages were handed over."""

    def __init__(self, gateway: MessageGateway) -> None:
        self._gateway = gateway
        self.addressees: list[str] = []

    async def send(self, *, to: str, **message: Any) -> SentMessage:
        self.addressees.append(to)
        return await self._gateway.send(to=to, **message)


async def test_reviewers_are_reminded_and_somebody_else_hears_of_what_they_left(
    store: Store, street: Street
) -> None:
    order_id = await accepted(store, a_draft(customer={"name": "A Guest"}))
    postbag = Postbag(street.near.messages)
    notify = NotifyActivities(store, postbag, DESK)
    for template in (Template.REVIEW_REMINDER, Template.REVIEW_ESCALATED):
        message = telling(order_id, Audience.REVIEWERS).model_copy(
            update={"template": template, "key": f"order:{order_id}:notify-{template}:1"}
        )
        assert (await run(notify.notify, message)).sent
    assert postbag.addressees == ["reviewers@shop.test", "lead@shop.test"]
