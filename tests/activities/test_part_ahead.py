"""An order of which a part goes ahead: what is planned, what is held and what each parcel is charged for."""

from typing import Any

import pytest
from sqlalchemy import text

from activities.inventory import InventoryActivities
from activities.routing import RoutingActivities
from activities.store import warehouse
from activities.store.arrived import arrivals
from activities.store.plans import decision, split_of, stored_plan
from activities.store.store import Store
from models.effects import KeptShipment, RouteAnswer, RouteOrder
from models.identifiers import shipment_id
from models.money import Money
from models.order import OrderDraft
from models.plan import Plan, PlanSummary, Unfillable
from models.states import OrderState, ShipmentState
from models.stock import Receipt, ReceivedUnits
from policies.money import Parts, whole_of
from policies.routing.problem import RoutingProblem
from policies.routing.router import CheapestNodeRouter
from tests.activities.running import run
from tests.activities.test_amending import begun, planned, reserved
from tests.builders import (
    NOON,
    a_draft,
    accepted,
    carrying,
    new_number,
    order_id_of,
    skus_of,
    stocked,
    under_policy,
    write_down,
)


async def asked(routing: RoutingActivities, draft: OrderDraft, attempt: int = 1) -> RouteAnswer:
    return await run(
        routing.route_order, RouteOrder(order_id=order_id_of(draft), attempt=attempt, business_now=NOON)
    )


async def short_of_two(store: Store, **changes: Any) -> OrderDraft:
    """An order of two lines, 4 units of each: 3 units of the second are there, all in one node."""
    draft = a_draft(2, quantity=4, **changes)
    first, second = skus_of(draft)
    await stocked(store, north={first: 9, second: 3})
    await accepted(store, draft)
    return draft


async def arrive(store: Store, sku: str, units: int) -> None:
    lines = (ReceivedUnits(sku=sku, quantity=units),)
    receipt = Receipt(document_id=f"R-{new_number()}", actor="wms", node="north", lines=lines)
    async with store.transaction() as session:
        await warehouse.receive(session, receipt)


async def rest_of(routing: RoutingActivities, draft: OrderDraft, first: PlanSummary) -> RouteAnswer:
    """What is answered for the rest, while shipment 1 goes on."""
    outstanding = Money(minor=draft.totals.total_minor, currency="GBP") - first.shipments[0].amount
    return await run(
        routing.route_order,
        RouteOrder(
            order_id=order_id_of(draft),
            attempt=2,
            business_now=NOON,
            kept=(KeptShipment(plan_id=first.plan_id, number=1),),
            first_number=2,
            outstanding=outstanding,
        ),
    )


async def held(store: Store, order_id: str) -> dict[str, int]:
    async with store.transaction() as session:
        rows = await session.execute(
            text(
                "SELECT shipment_id, sum(quantity)::int FROM reserved_units JOIN reservations USING (key) "
                "WHERE order_id = :order_id AND reserved_units.state = 'held' GROUP BY shipment_id"
            ),
            {"order_id": order_id},
        )
        return {str(shipment): int(units) for shipment, units in rows}


async def test_what_is_there_is_planned_and_the_rest_is_left_out(
    store: Store, routing: RoutingActivities
) -> None:
    draft = await short_of_two(store)
    plan = (await asked(routing, draft)).plan
    assert plan is not None
    assert ([ref.units for ref in plan.shipments], plan.left_out) == ([7], 1)
    async with store.transaction() as session:
        stored = await stored_plan(session, order_id_of(draft), plan.plan_id)
    assert [(line.line_id, line.quantity) for line in stored.left_out] == [("2", 1)]
    assert any("a part goes ahead" in reason for reason in stored.reasons)
    assert any("1 of 4 units" in reason for reason in stored.reasons)


@pytest.mark.parametrize("changes", [{"allow_partial": False}, {"ship_complete": True}])
async def test_an_order_that_is_to_come_whole_waits_whole(
    store: Store, routing: RoutingActivities, changes: dict[str, Any]
) -> None:
    answer = await asked(routing, await short_of_two(store, **changes))
    assert answer.plan is None and answer.unfillable


async def test_a_policy_that_allows_no_part_and_an_order_that_asks_for_one(fresh_store: Store) -> None:
    strict = RoutingActivities(fresh_store, CheapestNodeRouter())
    order = await short_of_two(fresh_store)
    await under_policy(fresh_store, {"shortage": {"part_at_least_percent": 100}})
    assert (await asked(strict, order)).plan is None
    willing = await short_of_two(fresh_store, allow_partial=True)
    assert (await asked(strict, willing)).plan is not None


async def test_the_rest_never_plans_with_what_the_part_holds_and_waits_until_all_of_it_is_there(
    store: Store, routing: RoutingActivities, inventory: InventoryActivities
) -> None:
    draft = a_draft(1, quantity=4, allow_partial=True)
    order_id, (sku,) = await accepted(store, draft), skus_of(draft)
    await stocked(store, north={sku: 2})
    plan = await planned(routing, order_id)
    assert (await reserved(inventory, order_id, plan)).reserved
    # Shipment 1 was started a moment ago and has written nothing yet.
    answer = await rest_of(routing, draft, plan)
    assert answer.plan is None
    await arrive(store, sku, 1)
    assert (await rest_of(routing, draft, plan)).plan is None, "one part goes ahead, not two"
    await arrive(store, sku, 1)
    rest = (await rest_of(routing, draft, plan)).plan
    assert rest is not None and [(ref.number, ref.units) for ref in rest.shipments] == [(2, 2)]
    assert (await reserved(inventory, order_id, rest)).reserved
    assert await held(store, order_id) == {f"{order_id}:1": 2, f"{order_id}:2": 2}
    # What the shipment writes itself counts from then on.
    await begun(store, order_id, plan, ShipmentState.PICK_REQUESTED, 1)
    async with store.transaction() as session:
        states = await session.execute(
            text("SELECT number, state FROM shipments WHERE order_id = :id"), {"id": order_id}
        )
        assert [tuple(row) for row in states] == [(1, "pick_requested")]


async def test_the_parts_are_charged_what_the_whole_costs(store: Store, routing: RoutingActivities) -> None:
    draft = await short_of_two(store)
    order_id = order_id_of(draft)
    plan = await planned(routing, order_id)
    second = skus_of(draft)[1]
    await begun(store, order_id, plan, ShipmentState.PICK_REQUESTED, 1)
    await arrive(store, second, 6)
    rest = (await rest_of(routing, draft, plan)).plan
    assert rest is not None
    amounts = [ref.amount for ref in (*plan.shipments, *rest.shipments)]
    assert sum(amount.minor for amount in amounts) == draft.totals.total_minor
    shares = []
    async with store.transaction() as session:
        for number, amount in enumerate(amounts, start=1):
            split = await split_of(session, order_id, shipment_id(order_id, number), amount)
            assert split is not None
            shares.append(Parts.model_validate(split))
    assert shares[0] + shares[1] == whole_of(draft)
    assert [share.goods for share in shares] == [3_500, 500]


async def test_an_order_is_woken_by_what_its_rest_waits_for_alone(
    store: Store, routing: RoutingActivities, inventory: InventoryActivities
) -> None:
    draft = await short_of_two(store)
    order_id, (first, second) = order_id_of(draft), skus_of(draft)
    plan = await planned(routing, order_id)
    assert (await reserved(inventory, order_id, plan)).reserved
    await begun(store, order_id, plan, ShipmentState.PICK_REQUESTED, 1)
    await write_down(store, order_id, carrying(order_id, OrderState.BACKORDERED, 1))

    async def woken() -> list[str]:
        async with store.transaction() as session:
            return [a.sku for a in await arrivals(session, 1_000) if a.order_id == order_id]

    await arrive(store, first, 50)
    assert await woken() == []
    await arrive(store, second, 50)
    assert await woken() == [second]


class Elsewhere:
    """Routes by the simple rule, and remembers in how many seconds it was to."""

    def __init__(self) -> None:
        self.within: list[float] = []

    async def route(self, problem: RoutingProblem, *, within: float) -> Plan | Unfillable:
        self.within.append(within)
        return CheapestNodeRouter().route(problem)


async def test_all_plans_that_an_order_needs_share_the_time_of_one_attempt(store: Store) -> None:
    draft = await short_of_two(store, allow_partial=True)
    router = Elsewhere()
    answer = await asked(RoutingActivities(store, router), draft)
    assert answer.plan is not None and answer.plan.left_out == 1
    whole, part = router.within
    assert part < whole <= 12
    async with store.transaction() as session:
        made = await decision(session, order_id_of(draft))
    assert made.plan.router == "cheapest-node/1"
