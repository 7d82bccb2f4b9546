"""Values of stock are worked out from what is stored, kept, and reach the orders that are routed after."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from activities.routing import RoutingActivities
from activities.stock_values import StockValueActivities
from activities.store import stock_values
from activities.store.network import StockLevel, load_network, seed_stock
from activities.store.plans import decision
from activities.store.store import Store
from models.effects import RouteOrder
from models.plan import Plan
from models.values import ValuesWorkedOut, WorkOutValues
from policies.routing.exact import ExactRouter
from policies.routing.problem import KnownValues, RoutingProblem, StockFigures
from policies.routing.questions import differences
from tests.activities.running import run
from tests.builders import a_draft, accepted, under_policy
from tests.policies.routing.test_forecast import NETWORK

# Movements are written by the database's own clock: the run looks back from a day on which they are old.
ORDERED_AT = datetime.now(UTC) + timedelta(days=20)
NOW = ORDERED_AT + timedelta(days=15)
LOOKING = {"look_ahead": {"percent": 75, "half_life_days": 7}}


async def ordered(store: Store, times: int, sku: str = "TEA", country: str = "GB", quantity: int = 1) -> None:
    for _ in range(times):
        await accepted(store, an_order(sku, country, quantity))
    async with store.transaction() as session:
        await session.execute(text("UPDATE orders SET created_at = :at"), {"at": ORDERED_AT})


def an_order(sku: str, country: str = "GB", quantity: int = 1) -> Any:
    draft = a_draft(quantity=quantity)
    line = draft.lines[0].model_copy(update={"sku": sku})
    ship_to = draft.ship_to.model_copy(update={"country": country})
    return draft.model_copy(update={"lines": (line,), "ship_to": ship_to})


async def stocked(store: Store, *levels: tuple[str, str, int]) -> None:
    async with store.transaction() as session:
        await load_network(session, NETWORK)
        await seed_stock(
            session, [StockLevel(node=node, sku=sku, on_hand=units) for node, sku, units in levels]
        )


async def worked_out(
    store: Store, run_id: str = "stock-values:1", now: datetime = NOW, **changes: Any
) -> ValuesWorkedOut:
    forced = changes.pop("forced", False)
    host = StockValueActivities(store, **changes)
    return await run(host.work_out_stock_values, WorkOutValues(run_id=run_id, now=now, forced=forced))


async def found(store: Store, *skus: str) -> KnownValues:
    async with store.transaction() as session:
        known = await stock_values.known_values(session, skus)
    assert known is not None
    return known


async def routed(store: Store, now: datetime = NOW, quantity: int = 1) -> tuple[Plan, RoutingProblem]:
    order_id = await accepted(store, an_order("TEA", quantity=quantity))
    effect = RouteOrder(order_id=order_id, attempt=1, business_now=now)
    answer = await run(RoutingActivities(store, ExactRouter()).route_order, effect)
    assert answer.plan is not None, answer.unfillable
    async with store.transaction() as session:
        made = await decision(session, order_id)
    assert made.problem is not None
    return made.plan, made.problem


@pytest.fixture
async def scarce(fresh_store: Store) -> Store:
    """Ireland orders more TEA than lies at the one node that sends there, which is also the cheaper one for Britain."""
    await stocked(fresh_store, ("gb", "TEA", 30), ("ie", "TEA", 12), ("gb", "SALT", 4))
    await ordered(fresh_store, 20, country="IE")
    await ordered(fresh_store, 10)
    await ordered(fresh_store, 3, sku="SALT")
    return fresh_store


async def test_an_order_spares_what_others_will_need_more_and_is_decided_the_same_again(
    scarce: Store,
) -> None:
    before, _ = await routed(scarce)
    assert [one.node for one in before.shipments] == ["ie"]
    await under_policy(scarce, LOOKING)
    result = await worked_out(scarce)
    assert (result.skipped, result.skus, result.priced, result.priced_rows) == (None, 2, 1, 1)
    assert (result.orders, result.left_out, result.countries_left_out) == (33, 0, 0)
    plan, problem = await routed(scarce, NOW + timedelta(days=1))
    assert [one.node for one in plan.shipments] == ["gb"]
    (other,) = plan.alternatives
    assert other.look_ahead is not None and other.cost is not None
    assert other.cost < plan.cost < other.cost + other.look_ahead
    assert problem.values is not None and problem.values.run_id == "stock-values:1"
    assert any(reason.startswith("look-ahead counts 68% of the prices") for reason in plan.reasons)
    # A later run and another policy change nothing of what was decided.
    await worked_out(scarce, "stock-values:2", NOW + timedelta(days=300))
    await under_policy(scarce, {})
    assert differences(plan, problem) == []


async def test_prices_fade_until_the_order_goes_the_cheapest_way_again(scarce: Store) -> None:
    await under_policy(scarce, LOOKING)
    await worked_out(scarce)
    plan, _ = await routed(scarce, NOW + timedelta(days=60))
    assert [one.node for one in plan.shipments] == ["ie"]
    assert plan.look_ahead is None or plan.look_ahead.minor < 50


async def test_supply_that_is_to_come_leaves_less_to_be_spared(scarce: Store) -> None:
    await under_policy(scarce, LOOKING)
    async with scarce.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO stock_documents (document_id, kind, fingerprint, actor, document, at)"
                " VALUES ('d', 'expected', '', 'jo', '{}', now());"
            )
        )
        await session.execute(
            text(
                "INSERT INTO inbound_supply (supply_id, node, sku, quantity, received, expected_on, document_id,"
                " updated_at) VALUES ('s', 'ie', 'TEA', 50, 0, :on, 'd', now())"
            ),
            {"on": (NOW + timedelta(days=3)).date()},
        )
    assert (await worked_out(scarce)).priced_rows == 0


async def test_a_run_is_done_once_and_only_the_last_few_are_kept(scarce: Store) -> None:
    await under_policy(scarce, LOOKING)
    first = await worked_out(scarce)
    await ordered(scarce, 1)
    assert await worked_out(scarce, now=NOW + timedelta(days=1)) == first
    for number in range(2, 6):
        await worked_out(scarce, f"stock-values:{number}", NOW + timedelta(minutes=number))
    async with scarce.transaction() as session:
        runs = list(await session.scalars(text("SELECT run_id FROM stock_value_runs ORDER BY run_id")))
        rows = list(await session.scalars(text("SELECT DISTINCT run_id FROM stock_values ORDER BY run_id")))
    assert runs == rows == ["stock-values:3", "stock-values:4", "stock-values:5"]


async def test_without_a_policy_that_uses_values_none_are_worked_out_unless_asked_for(scarce: Store) -> None:
    skipped = await worked_out(scarce)
    assert skipped.skipped == "the policy in force uses neither look-ahead nor markdown"
    async with scarce.transaction() as session:
        assert await stock_values.known_values(session, ["TEA"]) is None
    assert (await worked_out(scarce, forced=True)).skipped is None
    # A plan keeps them for whoever tries another policy on it, and goes by none.
    plan, problem = await routed(scarce)
    assert problem.values is not None and problem.value_terms is None and plan.look_ahead is None


async def test_a_run_looks_at_what_sells_most_and_says_how_much_it_left_out(scarce: Store) -> None:
    result = await worked_out(scarce, forced=True, most_skus=1)
    assert (result.skus, result.left_out) == (1, 1)
    assert {one.sku for one in (await found(scarce, "TEA", "SALT")).figures} == {"TEA"}


async def test_what_sold_from_where_is_kept_beside_the_prices(scarce: Store) -> None:
    await routed_and_reserved(scarce, node="ie", quantity=4)
    result = await worked_out(scarce, forced=True)
    assert result.window_days == 28
    assert {
        (one.sku, one.node): (one.sold, one.on_hand) for one in (await found(scarce, "TEA", "SALT")).figures
    } == {
        ("TEA", "gb"): (0, 30),
        ("TEA", "ie"): (4, 12),
        ("SALT", "gb"): (0, 4),
    }
    prices = {(one.sku, one.node): one.price_mills for one in (await found(scarce, "TEA", "SALT")).figures}
    assert prices["SALT", "gb"] is None and prices["TEA", "gb"] == 0 and prices["TEA", "ie"]


async def routed_and_reserved(store: Store, *, node: str, quantity: int) -> None:
    from activities.store import stock

    order_id = await accepted(store, an_order("TEA", quantity=quantity))
    async with store.transaction() as session:
        await stock.reserve(
            session,
            key=f"order:{order_id}:reserve:1",
            order_id=order_id,
            plan_id="p1",
            wanted=[stock.Wanted(shipment_id=f"{order_id}:1", node=node, sku="TEA", quantity=quantity)],
            expires_at=NOW,
        )
        await session.execute(text("UPDATE reservations SET created_at = :at"), {"at": ORDERED_AT})


async def test_what_has_not_been_there_for_the_whole_window_is_new(scarce: Store) -> None:
    await worked_out(scarce, now=datetime.now(UTC) + timedelta(days=1), forced=True)
    assert {one.sold for one in (await found(scarce, "TEA", "SALT")).figures} == {None}


async def test_an_overstocked_store_is_preferred_by_as_much_as_the_policy_says(fresh_store: Store) -> None:
    await stocked(fresh_store, ("gb", "TEA", 900), ("ie", "TEA", 900))
    await ordered(fresh_store, 1)
    rule = {"at": "gb", "weeks_of_supply": 8, "credit_minor": 60}
    await under_policy(fresh_store, {"markdown": [rule]})
    await worked_out(fresh_store)
    plan, problem = await routed(fresh_store, quantity=2)
    assert [one.node for one in plan.shipments] == ["gb"]
    assert plan.markdown is not None and plan.markdown.minor == -120
    assert plan.proof is not None and plan.proof.objective_minor == plan.cost.minor - 120
    assert differences(plan, problem) == []


async def test_a_page_goes_on_where_the_last_one_ended(scarce: Store) -> None:
    result = await worked_out(scarce, forced=True)
    async with scarce.transaction() as session:
        first, cursor = await stock_values.values_page(session, result, None, None, 1)
        rest, end = await stock_values.values_page(session, result, None, cursor, 1)
        one, none = await stock_values.values_page(session, result, "TEA", None, 1)
    assert ({row.sku for row in first.figures}, {row.sku for row in rest.figures}) == ({"SALT"}, {"TEA"})
    assert end is None and none is None and len(one.figures) == 2
    assert isinstance(one.figures[0], StockFigures)
