"""Stock under pressure: all or nothing, never more than there is, freed once, consumed once."""

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from activities.inventory import InventoryActivities
from activities.payments import PaymentActivities
from activities.store import stock
from activities.store.network import OpenStock, stock_of
from activities.store.plans import keep_plan
from activities.store.store import Store
from models.effects import ReleaseReservation, Reservation, ReserveStock, SettleOrder, Shortage
from models.journal import Carried
from models.order import OrderDraft
from models.plan import Plan, PlannedLine, PlannedShipment, PlanSummary
from models.states import OrderState, ShipmentState
from tests.activities.conftest import Street
from tests.activities.running import failure_of, run
from tests.builders import (
    NOON,
    a_draft,
    a_shipment,
    accepted,
    carrying,
    gbp,
    order_id_of,
    skus_of,
    stocked,
    write_down,
)


async def planned(store: Store, draft: OrderDraft, *nodes: str) -> ReserveStock:
    """Accept ``draft`` and plan one shipment per node, each with all the lines; answers how to reserve it."""
    await accepted(store, draft)
    return await planned_again(store, draft, *nodes, attempt=1)


async def planned_again(store: Store, draft: OrderDraft, *nodes: str, attempt: int = 2) -> ReserveStock:
    """Another plan of the same order."""
    order_id = order_id_of(draft)
    lines = tuple(
        PlannedLine(line_id=line.line_id, sku=line.sku, quantity=line.quantity) for line in draft.lines
    )
    plan = Plan(
        shipments=tuple(
            PlannedShipment(
                number=number,
                node=node,
                carrier="islandpost",
                service="tracked48",
                lines=lines,
                weight_g=400,
                handling=gbp(100),
                freight=gbp(350),
                transit_days=2,
                promised_at=NOON,
            )
            for number, node in enumerate(nodes or ("north",), start=1)
        ),
        split_penalty=gbp(0),
        cost=gbp(450),
        promised_at=NOON,
        router="test",
    )
    summary = PlanSummary(
        plan_id=f"{order_id}:p{attempt}",
        shipments=(),
        cost=plan.cost,
        goods_value=gbp(0),
        promised_at=NOON,
        router="test",
    )
    async with store.transaction() as session:
        await keep_plan(session, order_id, attempt, plan, summary)
    return ReserveStock(
        order_id=order_id,
        plan_id=summary.plan_id,
        key=f"order:{order_id}:reserve:{attempt}",
        expires_at=datetime.now(UTC) + timedelta(days=1),
    )


def releasing(reserve: ReserveStock, shipment: int | None = None) -> ReleaseReservation:
    return ReleaseReservation(
        order_id=reserve.order_id,
        reservation_key=reserve.key,
        shipment_id=None if shipment is None else f"{reserve.order_id}:{shipment}",
        key=f"{reserve.key}:release",
    )


async def level(store: Store, sku: str, node: str = "north") -> OpenStock:
    async with store.transaction() as session:
        return next(found for found in await stock_of(session, [sku], "web:1") if found.node == node)


async def test_a_plan_is_reserved_once_however_often_the_step_runs(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(lines=2, quantity=3)
    await stocked(store, north=dict.fromkeys(skus_of(draft), 10))
    reserve = await planned(store, draft)
    for _ in range(3):
        assert await run(inventory.reserve_stock, reserve) == Reservation(reserved=True)
    for sku in skus_of(draft):
        assert (await level(store, sku)).reserved == 3


async def test_one_short_row_reserves_nothing_and_is_named(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(lines=2, quantity=3)
    plenty, scarce = skus_of(draft)
    await stocked(store, north={plenty: 10, scarce: 2})
    reserve = await planned(store, draft)
    answer = await run(inventory.reserve_stock, reserve)
    assert answer == Reservation(
        reserved=False,
        shortages=(Shortage(node="north", sku=scarce, requested=3, available=2),),
    )
    assert (await level(store, plenty)).reserved == 0


async def test_two_lines_of_one_sku_must_fit_together(inventory: InventoryActivities, store: Store) -> None:
    draft = a_draft(lines=2, quantity=3)
    sku = draft.lines[0].sku
    draft = draft.model_copy(
        update={"lines": tuple(line.model_copy(update={"sku": sku}) for line in draft.lines)}
    )
    await stocked(store, north={sku: 5})
    answer = await run(inventory.reserve_stock, await planned(store, draft))
    assert answer.shortages == (Shortage(node="north", sku=sku, requested=6, available=5),)


async def test_a_sku_that_the_node_never_held_is_a_shortage(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft()
    await stocked(store, north={})
    answer = await run(inventory.reserve_stock, await planned(store, draft))
    assert answer.shortages == (Shortage(node="north", sku=skus_of(draft)[0], requested=2, available=0),)


async def test_a_shortage_can_be_tried_again_when_there_is_stock(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft()
    await stocked(store, north={})
    reserve = await planned(store, draft)
    assert not (await run(inventory.reserve_stock, reserve)).reserved
    await stocked(store, north={skus_of(draft)[0]: 2})
    assert (await run(inventory.reserve_stock, reserve)).reserved


async def test_twenty_buyers_of_the_last_ten_units_sell_exactly_ten(
    inventory: InventoryActivities, store: Store
) -> None:
    first = a_draft(quantity=1)
    sku = first.lines[0].sku
    await stocked(store, north={sku: 10})
    drafts = [a_draft(quantity=1).model_copy(update={"lines": first.lines}) for _ in range(19)] + [first]
    reserves = [await planned(store, draft) for draft in drafts]

    answers = await asyncio.gather(*(run(inventory.reserve_stock, reserve) for reserve in reserves))

    assert sum(answer.reserved for answer in answers) == 10
    assert all(
        answer.shortages == (Shortage(node="north", sku=sku, requested=1, available=0),)
        for answer in answers
        if not answer.reserved
    )
    found = await level(store, sku)
    assert (found.on_hand, found.reserved) == (10, 10)


async def test_orders_that_want_the_same_rows_in_other_orders_do_not_block_each_other(
    inventory: InventoryActivities, store: Store
) -> None:
    first = a_draft(lines=6, quantity=1)
    await stocked(store, north=dict.fromkeys(skus_of(first), 100))
    drafts = [
        a_draft(lines=6, quantity=1).model_copy(update={"lines": lines})
        for lines in (first.lines, first.lines[::-1]) * 8
    ]
    reserves = [await planned(store, draft) for draft in drafts]
    answers = await asyncio.gather(*(run(inventory.reserve_stock, reserve) for reserve in reserves))
    assert all(answer.reserved for answer in answers)
    assert {(await level(store, sku)).reserved for sku in skus_of(first)} == {16}


async def test_a_release_frees_once_and_only_what_is_held(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 10}, south={sku: 10})
    reserve = await planned(store, draft, "north", "south")
    await run(inventory.reserve_stock, reserve)
    async with store.transaction() as session:
        await stock.consume(session, f"{reserve.order_id}:1")
    for _ in range(2):
        await run(inventory.release_reservation, releasing(reserve))
    north, south = await level(store, sku), await level(store, sku, "south")
    assert (north.on_hand, north.reserved) == (7, 0)
    assert (south.on_hand, south.reserved) == (10, 0)


async def test_one_shipments_part_can_be_freed_alone(inventory: InventoryActivities, store: Store) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 10}, south={sku: 10})
    reserve = await planned(store, draft, "north", "south")
    await run(inventory.reserve_stock, reserve)
    await run(inventory.release_reservation, releasing(reserve, shipment=2))
    assert (await level(store, sku)).reserved == 3
    assert (await level(store, sku, "south")).reserved == 0


async def test_what_left_with_the_carrier_is_consumed_once(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 10})
    reserve = await planned(store, draft)
    await run(inventory.reserve_stock, reserve)
    for _ in range(2):
        async with store.transaction() as session:
            await stock.consume(session, f"{reserve.order_id}:1")
    found = await level(store, sku)
    assert (found.on_hand, found.reserved) == (7, 0)


async def test_what_left_though_it_was_freed_is_not_on_the_shelf_any_more(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 10})
    reserve = await planned(store, draft)
    await run(inventory.reserve_stock, reserve)
    await run(inventory.release_reservation, releasing(reserve, shipment=1))
    for _ in range(2):
        async with store.transaction() as session:
            await stock.consume(session, f"{reserve.order_id}:1")
    found = await level(store, sku)
    assert (found.on_hand, found.reserved) == (7, 0)


async def test_what_left_though_others_have_reserved_it_meanwhile_breaks_nothing(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 4})
    reserve = await planned(store, draft)
    await run(inventory.reserve_stock, reserve)
    await run(inventory.release_reservation, releasing(reserve, shipment=1))
    async with store.transaction() as session:
        await session.execute(text("UPDATE stock SET reserved = 2 WHERE sku = :sku"), {"sku": sku})
        await stock.consume(session, f"{reserve.order_id}:1")
    found = await level(store, sku)
    assert (found.on_hand, found.reserved) == (2, 2)


async def test_a_reservation_that_comes_after_its_release_is_refused(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft()
    await stocked(store, north={skus_of(draft)[0]: 10})
    reserve = await planned(store, draft)
    await run(inventory.release_reservation, releasing(reserve))
    failure = await failure_of(inventory.reserve_stock, reserve)
    assert (failure.type, failure.non_retryable) == ("refused", True)
    assert (await level(store, skus_of(draft)[0])).reserved == 0


async def test_reserve_and_release_at_once_leave_nothing_reserved(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft()
    await stocked(store, north={skus_of(draft)[0]: 10})
    for _ in range(5):
        reserve = await planned(store, a_draft().model_copy(update={"lines": draft.lines}))
        await asyncio.gather(
            run(inventory.reserve_stock, reserve),
            run(inventory.release_reservation, releasing(reserve)),
            return_exceptions=True,
        )
    assert (await level(store, skus_of(draft)[0])).reserved == 0


async def test_a_plan_of_another_order_is_not_found(inventory: InventoryActivities, store: Store) -> None:
    theirs = await planned(store, a_draft())
    mine = a_draft()
    await accepted(store, mine)
    stolen = theirs.model_copy(update={"order_id": order_id_of(mine)})
    assert (await failure_of(inventory.reserve_stock, stolen)).type == "not_found"


# --- a run that was reset in Temporal, and counts its attempts from 1 again ---
async def going_by(store: Store, reserve: ReserveStock, version: int) -> None:
    """The order's run is at this plan now."""
    carried = carrying(reserve.order_id, OrderState.RESERVING, version, plan_id=reserve.plan_id)
    await write_down(store, reserve.order_id, carried)


async def test_an_order_that_was_reset_holds_its_units_once(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={}, south={sku: 10})
    first = await planned(store, draft)
    assert not (await run(inventory.reserve_stock, first)).reserved
    second = await planned_again(store, draft, "south")
    assert (await run(inventory.reserve_stock, second)).reserved
    await stocked(store, north={sku: 3})
    for _ in range(2):
        assert (await run(inventory.reserve_stock, first)).reserved
    assert (await level(store, sku)).reserved == 3
    assert (await level(store, sku, "south")).reserved == 0
    # Reset once more, to where it was at its second plan.
    assert (await run(inventory.reserve_stock, second)).reserved
    assert (await level(store, sku)).reserved == 0
    assert (await level(store, sku, "south")).reserved == 3


async def test_what_the_order_holds_itself_does_not_make_it_short(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 3})
    first = await planned(store, draft)
    second = await planned_again(store, draft)
    assert (await run(inventory.reserve_stock, second)).reserved
    assert (await run(inventory.reserve_stock, first)).reserved
    found = await level(store, sku)
    assert (found.on_hand, found.reserved) == (3, 3)


async def test_a_claim_that_comes_out_short_frees_nothing_that_is_held(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 1}, south={sku: 3})
    first = await planned(store, draft)
    second = await planned_again(store, draft, "south")
    assert (await run(inventory.reserve_stock, second)).reserved
    assert not (await run(inventory.reserve_stock, first)).reserved
    assert (await level(store, sku, "south")).reserved == 3


async def test_an_attempt_that_was_given_up_long_ago_takes_nothing_from_the_plan_the_order_goes_by(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 10}, south={sku: 10})
    zombie = await planned(store, draft)
    second = await planned_again(store, draft, "south")
    await going_by(store, second, version=5)
    assert (await run(inventory.reserve_stock, second)).reserved
    failure = await failure_of(inventory.reserve_stock, zombie)
    assert (failure.type, failure.non_retryable) == ("refused", True)
    assert (await level(store, sku)).reserved == 0
    assert (await level(store, sku, "south")).reserved == 3
    # Reset to before it, the run is at the first plan again, and says so with the very step.
    carried = carrying(zombie.order_id, OrderState.RESERVING, 6, plan_id=zombie.plan_id)
    again = zombie.model_copy(update={"carried": carried})
    assert (await run(inventory.reserve_stock, again)).reserved
    assert (await level(store, sku, "south")).reserved == 0


async def test_a_shipment_that_the_warehouse_has_already_keeps_what_was_reserved_for_it(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 10}, south={sku: 10}, west={sku: 10})
    first = await planned(store, draft)
    second = await planned_again(store, draft, "south", "west")
    await run(inventory.reserve_stock, second)
    picked = a_shipment(second.order_id, 1, node="south", state=ShipmentState.PICKED)
    await write_down(store, second.order_id, Carried(shipment=picked))
    assert (await run(inventory.reserve_stock, first)).reserved
    assert (await level(store, sku, "south")).reserved == 3
    assert (await level(store, sku, "west")).reserved == 0, "that shipment had not begun"
    assert (await level(store, sku)).reserved == 0, "the one shipment of the first plan is under way"
    async with store.transaction() as session:
        await stock.consume(session, f"{second.order_id}:1")
    south = await level(store, sku, "south")
    assert (south.on_hand, south.reserved) == (7, 0)


async def test_of_two_reservations_for_one_shipment_the_one_that_left_is_consumed_and_the_other_freed(
    inventory: InventoryActivities, store: Store
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 10}, south={sku: 10})
    first = await planned(store, draft)
    second = await planned_again(store, draft, "south")
    await run(inventory.reserve_stock, second)
    # Both were made before an order held its units once.
    async with store.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO reservations (key, order_id, plan_id, state, created_at) "
                "VALUES (:key, :order_id, :plan_id, 'held', now())"
            ),
            {"key": first.key, "order_id": first.order_id, "plan_id": first.plan_id},
        )
        await session.execute(
            text(
                "INSERT INTO reserved_units (key, shipment_id, node, sku, quantity, state) "
                "VALUES (:key, :shipment_id, 'north', :sku, 3, 'held')"
            ),
            {"key": first.key, "shipment_id": f"{first.order_id}:1", "sku": sku},
        )
        await session.execute(
            text("UPDATE stock SET reserved = 3 WHERE sku = :sku AND node = 'north'"), {"sku": sku}
        )
    gone = a_shipment(first.order_id, 1, node="south", state=ShipmentState.HANDED_OVER, handed_over_at=NOON)
    await write_down(store, first.order_id, Carried(shipment=gone))
    for _ in range(2):
        async with store.transaction() as session:
            await stock.consume(session, f"{first.order_id}:1")
    north, south = await level(store, sku), await level(store, sku, "south")
    assert (north.on_hand, north.reserved) == (10, 0)
    assert (south.on_hand, south.reserved) == (7, 0)


async def test_an_order_that_closes_leaves_nothing_reserved(
    inventory: InventoryActivities, store: Store, street: Street
) -> None:
    draft = a_draft(quantity=3)
    sku = skus_of(draft)[0]
    await stocked(store, north={sku: 10})
    reserve = await planned(store, draft)
    await run(inventory.reserve_stock, reserve)
    closing = SettleOrder(
        order_id=reserve.order_id,
        total=gbp(draft.totals.total_minor),
        authorisation_key=None,
        key=f"order:{reserve.order_id}:settle:1",
        closing=carrying(reserve.order_id, OrderState.CLOSED, 90, closed_at=NOON),
    )
    assert (await run(PaymentActivities(store, street.near.payments).settle_order, closing)).balanced
    assert (await level(store, sku)).reserved == 0
