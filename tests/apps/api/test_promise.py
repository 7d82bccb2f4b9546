"""A promise before there is an order: the plan that was promised is what the order is shipped by."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import text

from activities.inventory import InventoryActivities
from activities.routing import RoutingActivities
from activities.store import promises
from activities.store.plans import decision
from activities.store.store import Store
from models.effects import ReserveStock, RouteAnswer, RouteOrder
from models.order import OrderDraft
from policies.routing.exact import ExactRouter
from policies.routing.questions import differences
from tests.activities.running import run
from tests.builders import NOON, a_draft, accepted, new_number, order_id_of, skus_of, stocked

START = {"Orderwright-Business-Start": NOON.isoformat()}


def a_cart(draft: OrderDraft, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": f"cart-{new_number()}",
        "channel": draft.channel,
        "destination": {"country": draft.ship_to.country, "postcode": draft.ship_to.postcode},
        "lines": [{"sku": line.sku, "quantity": line.quantity} for line in draft.lines],
    } | changes


async def promised(api: httpx.AsyncClient, draft: OrderDraft, **changes: Any) -> dict[str, Any]:
    answer = await api.post("/v1/promise", json=a_cart(draft, **changes), headers=START)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ordered(store: Store, draft: OrderDraft, promise_id: str, attempt: int = 1) -> RouteAnswer:
    await accepted(store, draft.model_copy(update={"promise_id": promise_id}))
    routing = RoutingActivities(store, ExactRouter())
    effect = RouteOrder(order_id=order_id_of(draft), attempt=attempt, business_now=NOON)
    answer = await run(routing.route_order, effect)
    assert answer.plan is not None, answer.unfillable
    return answer


async def reasons_of(store: Store, draft: OrderDraft) -> tuple[str, ...]:
    async with store.transaction() as session:
        return (await decision(session, order_id_of(draft))).plan.reasons


async def test_an_order_is_shipped_and_reserved_by_the_plan_that_was_promised(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = a_draft(2, quantity=3)
    first, second = skus_of(draft)
    await stocked(store, north={first: 9, second: 1}, south={second: 9})
    promise = await promised(api, draft)
    assert promise["policy"] and promise["missing"] == []
    sent = {line["sku"] for parcel in promise["parcels"] for line in parcel["lines"]}
    assert sent == {first, second}
    # By now another plan would be better, and another day later.
    await stocked(store, north={first: 9, second: 9}, south={second: 9})
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE stock SET on_hand = 9 WHERE node = 'north' AND sku = :sku"), {"sku": second}
        )
    answer = await ordered(store, draft, promise["promise_id"])
    assert answer.plan is not None
    assert [ref.node for ref in answer.plan.shipments] == [one["node"] for one in promise["parcels"]]
    assert answer.plan.promised_at == datetime.fromisoformat(promise["promised_at"])
    async with store.transaction() as session:
        made = await decision(session, order_id_of(draft))
    assert made.plan.promise == promise["promise_id"] and made.problem is not None
    assert differences(made.plan, made.problem) == []
    reserved = await run(
        InventoryActivities(store).reserve_stock,
        ReserveStock(
            order_id=order_id_of(draft),
            plan_id=answer.plan.plan_id,
            key=f"order:{order_id_of(draft)}:reserve:1",
            expires_at=datetime.now(UTC),
        ),
    )
    assert reserved.reserved
    shown = (await api.get(f"/v1/promise/{promise['promise_id']}")).json()
    assert (shown["order_id"], shown["promise"], shown["not_taken"]) == (order_id_of(draft), promise, None)


async def test_the_same_request_gets_the_same_promise_and_another_under_its_id_none(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = a_draft()
    await stocked(store, north={skus_of(draft)[0]: 9})
    promise = await promised(api, draft, request_id="again")
    assert await promised(api, draft, request_id="again") == promise
    other = await api.post("/v1/promise", json=a_cart(draft, request_id="again", valid_minutes=3))
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


async def test_what_cannot_be_sent_is_answered_with_what_is_missing(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = a_draft(quantity=5)
    (sku,) = skus_of(draft)
    await stocked(store, north={sku: 3})
    promise = await promised(api, draft)
    assert promise["promise_id"] is None and promise["parcels"] == []
    assert promise["missing"] == [{"sku": sku, "quantity": 2}]
    assert "3 of the 5" in promise["reasons"][0]
    twice = a_cart(draft)
    twice["lines"] *= 2
    assert (await api.post("/v1/promise", json=twice)).status_code == 422


async def test_an_order_that_comes_late_or_is_another_one_is_planned_anew_and_says_why(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = a_draft(quantity=2)
    (sku,) = skus_of(draft)
    await stocked(store, north={sku: 99})
    late = await promised(api, draft)
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE promises SET valid_until = now() - interval '1 minute' WHERE promise_id = :id"),
            {"id": late["promise_id"]},
        )
    await ordered(store, draft, late["promise_id"])
    assert any("it was valid until" in reason for reason in await reasons_of(store, draft))
    shown = (await api.get(f"/v1/promise/{late['promise_id']}")).json()
    assert shown["order_id"] is None and order_id_of(draft) in shown["not_taken"]

    promise = await promised(api, draft)
    more = a_draft(quantity=3, channel=draft.channel)
    more = more.model_copy(update={"lines": (more.lines[0].model_copy(update={"sku": sku}),)})
    await ordered(store, more, promise["promise_id"])
    assert any("other goods were ordered" in reason for reason in await reasons_of(store, more))

    same = a_draft(quantity=2)
    same = same.model_copy(update={"lines": (same.lines[0].model_copy(update={"sku": sku}),)})
    await ordered(store, same, promise["promise_id"])
    second = a_draft(quantity=2)
    second = second.model_copy(update={"lines": (second.lines[0].model_copy(update={"sku": sku}),)})
    await ordered(store, second, promise["promise_id"])
    assert any(
        f"order {order_id_of(same)} has taken it" in reason for reason in await reasons_of(store, second)
    )
    third = a_draft(quantity=2)
    await stocked(store, north={sku: 99, skus_of(third)[0]: 9})
    await ordered(store, third, "p-" + "0" * 32)
    assert any("no such promise" in reason for reason in await reasons_of(store, third))


async def test_a_second_plan_is_made_anew(api: httpx.AsyncClient, store: Store) -> None:
    draft = a_draft()
    await stocked(store, north={skus_of(draft)[0]: 9})
    promise = await promised(api, draft)
    await ordered(store, draft, promise["promise_id"], attempt=2)
    async with store.transaction() as session:
        assert (await decision(session, order_id_of(draft))).plan.promise is None


async def test_promises_that_nobody_took_are_forgotten_and_others_kept(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = a_draft()
    await stocked(store, north={skus_of(draft)[0]: 9})
    left, taken = await promised(api, draft), await promised(api, draft)
    await ordered(store, draft, taken["promise_id"])
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE promises SET valid_until = now() - interval '3 days' WHERE promise_id IN (:a, :b)"),
            {"a": left["promise_id"], "b": taken["promise_id"]},
        )
        assert await promises.are_asked_for(session)
        assert await promises.drop_untaken(session, 10) == 1
    assert (await api.get(f"/v1/promise/{left['promise_id']}")).status_code == 404
    assert (await api.get(f"/v1/promise/{taken['promise_id']}")).status_code == 200


async def test_what_a_promise_was_made_of_is_kept_until_the_order_s_plan_has_it(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = a_draft()
    await stocked(store, north={skus_of(draft)[0]: 9})
    left, taken = await promised(api, draft), await promised(api, draft)

    async def heavy() -> set[str]:
        async with store.transaction() as session:
            ids = {"ids": [left["promise_id"], taken["promise_id"]]}
            rows = await session.scalars(
                text("SELECT promise_id FROM promises WHERE promise_id = ANY(:ids) AND problem <> '{}'"), ids
            )
            return set(rows)

    async def dropped(most: int = 1_000) -> int:
        async with store.transaction() as session:
            return await promises.drop_problems(session, most)

    while await dropped():
        pass
    # Taken by an order whose plan was not written yet: it is asked for again.
    await accepted(store, draft.model_copy(update={"promise_id": taken["promise_id"]}))
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE promises SET order_id = :order, taken_at = now() WHERE promise_id = :id"),
            {"order": order_id_of(draft), "id": taken["promise_id"]},
        )
    assert await dropped() == 0 and len(await heavy()) == 2
    effect = RouteOrder(order_id=order_id_of(draft), attempt=1, business_now=NOON)
    routing = RoutingActivities(store, ExactRouter())
    first = await run(routing.route_order, effect)
    assert await dropped(0) == 0
    assert await dropped() == 1
    assert await heavy() == {left["promise_id"]}
    assert await run(routing.route_order, effect) == first
    shown = (await api.get(f"/v1/promise/{taken['promise_id']}")).json()
    assert (shown["promise"], shown["order_id"], shown["kept_to"]) == (taken, order_id_of(draft), False)
    async with store.transaction() as session:
        made = await decision(session, order_id_of(draft))
    assert made.plan.promise == taken["promise_id"] and made.problem is not None
    assert differences(made.plan, made.problem) == []


async def test_a_window_is_promised_kept_by_the_order_and_held_for(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = a_draft()
    await stocked(store, north={skus_of(draft)[0]: 9})
    window = {
        "deliver_from": (NOON + timedelta(days=20)).isoformat(),
        "promise_by": (NOON + timedelta(days=22)).isoformat(),
    }
    promise = await promised(api, draft, **window)
    day = datetime.fromisoformat(promise["promised_at"])
    assert NOON + timedelta(days=20) <= day <= NOON + timedelta(days=22)
    assert any("holds its parcel until" in reason for reason in promise["reasons"])
    asked = OrderDraft.model_validate(draft.model_dump(mode="json") | window)
    answer = await ordered(store, asked, promise["promise_id"])
    assert answer.plan is not None
    (ref,) = answer.plan.shipments
    assert (ref.promised_at, answer.plan.promised_at) == (day, day)
    assert ref.held_until is not None and NOON < ref.held_until < day
    other = await promised(api, draft)
    again = asked.model_copy(update={"external_id": f"{asked.external_id}-2"})
    answer = await ordered(store, again, other["promise_id"])
    assert answer.plan is not None and answer.plan.promised_at == day
    assert any("asks for another" in reason for reason in await reasons_of(store, again))
    backwards = {"deliver_from": window["promise_by"], "promise_by": window["deliver_from"]}
    refused = await api.post("/v1/promise", json=a_cart(draft, **backwards))
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


async def test_without_a_network_nothing_is_promised_and_it_is_said(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = a_draft()
    await stocked(store, north={skus_of(draft)[0]: 9})
    async with store.transaction() as session:
        before = dict((await session.execute(text("SELECT * FROM network"))).mappings().one())
        await session.execute(text("DELETE FROM network"))
    try:
        promise = await promised(api, draft)
    finally:
        async with store.transaction() as session:
            columns = ", ".join(before)
            values = ", ".join(f":{name}" for name in before)
            await session.execute(text(f"INSERT INTO network ({columns}) VALUES ({values})"), before)
    assert promise["promise_id"] is None and promise["parcels"] == []
    assert promise["reasons"] == ["no fulfilment network is loaded: run orderwright prepare"]
    assert [line["sku"] for line in promise["missing"]] == list(skus_of(draft))
