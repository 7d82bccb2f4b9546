"""Notices, and plans that a person sets: over HTTP, on the real database, with the activity that plans."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from activities.routing import RoutingActivities
from activities.store import rerouting
from activities.store.plans import decision
from activities.store.record import record
from activities.store.store import Store
from models.effects import RouteAnswer, RouteOrder
from models.journal import Carried, TimelineEntry
from models.messages import Avoided, PlanAgain
from models.order import OrderDraft
from models.plan import Plan, Unfillable
from models.rerouting import NoticePost
from policies.routing.exact import ExactRouter
from policies.routing.problem import RoutingProblem
from policies.routing.questions import differences
from tests.activities.running import failure_of, run
from tests.builders import NOON, a_draft, accepted, new_number, order_id_of, skus_of, stocked


@pytest.fixture(autouse=True)
async def nothing_holds_afterwards(store: Store) -> AsyncIterator[None]:
    yield
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE routing_notices SET lifted_at = now(), lifted_by = 'test' WHERE lifted_at IS NULL")
        )


def said(**says: Any) -> dict[str, Any]:
    return {"request_id": f"r-{new_number()}", "actor": "dana", "reason": "a flood"} | says


async def post(api: httpx.AsyncClient, **says: Any) -> dict[str, Any]:
    answer = await api.post("/v1/routing/notices", json=said(**says))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def lift(api: httpx.AsyncClient, notice: dict[str, Any]) -> dict[str, Any]:
    answer = await api.post(
        f"/v1/routing/notices/{notice['notice_id']}/lift", json={"actor": "dana", "reason": "over"}
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def an_order(store: Store, **stock: int) -> OrderDraft:
    draft = a_draft(quantity=3)
    await accepted(store, draft)
    (sku,) = skus_of(draft)
    await stocked(store, **{node: {sku: units} for node, units in stock.items()})
    return draft


async def route(store: Store, draft: OrderDraft, attempt: int = 1, **says: Any) -> RouteAnswer:
    effect = RouteOrder(order_id=order_id_of(draft), attempt=attempt, business_now=NOON, **says)
    answer: RouteAnswer = await run(RoutingActivities(store, ExactRouter()).route_order, effect)
    if answer.plan is not None:
        # What the order's run carries to the store with its next step.
        async with store.transaction() as session:
            await session.execute(
                text("UPDATE orders SET plan_id = :plan_id WHERE order_id = :order_id"),
                {"plan_id": answer.plan.plan_id, "order_id": order_id_of(draft)},
            )
    return answer


def nodes_of(answer: RouteAnswer) -> list[str]:
    assert answer.plan is not None, answer.unfillable
    return [ref.node for ref in answer.plan.shipments]


async def told(store: Store, draft: OrderDraft) -> list[Any]:
    async with store.transaction() as session:
        return [one.message for one in await rerouting.untold(session, 10, order_id_of(draft))]


async def test_orders_are_planned_without_a_closed_node_until_it_is_open_again(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = await an_order(store, north=5, south=5)
    (usual,) = nodes_of(await route(store, draft))
    notice = await post(api, node=usual)
    try:
        assert (notice["kind"], notice["lifted_at"]) == ("node", None) and notice["orders"] >= 1
        [message] = await told(store, draft)
        assert (message.event_id, message.actor) == (f"notice-{notice['notice_id']}", "dana")
        assert message.reason == f"{usual} is closed: a flood" and message.shipments == ()
        assert notice in (await api.get("/v1/routing/notices")).json()
        (other,) = nodes_of(await route(store, draft, 2))
        assert other != usual
        async with store.transaction() as session:
            made = await decision(session, order_id_of(draft))
        assert f"{usual} is closed: a flood" in made.plan.reasons
    finally:
        lifted = await lift(api, notice)
    assert lifted["lifted_by"] == "dana" and lifted["reason"] == "a flood; lifted: over"
    assert await lift(api, notice) == lifted, "lifted once"
    assert nodes_of(await route(store, draft, 3)) == [usual]
    assert made.problem is not None and differences(made.plan, made.problem) == []
    every = (await api.get("/v1/routing/notices", params={"every": "true"})).json()
    assert lifted in every and lifted not in (await api.get("/v1/routing/notices")).json()


class Posting(ExactRouter):
    """A router while whose work somebody posts a notice."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def route(self, problem: RoutingProblem) -> Plan | Unfillable:
        self._act()
        return super().route(problem)


@pytest.mark.parametrize("units", [5, 0])
async def test_a_notice_that_comes_while_an_order_is_planned_is_not_overlooked(
    api: httpx.AsyncClient, store: Store, units: int
) -> None:
    draft = await an_order(store, north=units, south=units)
    loop = asyncio.get_running_loop()
    effect = RouteOrder(order_id=order_id_of(draft), attempt=1, business_now=NOON)

    def act() -> None:
        asyncio.run_coroutine_threadsafe(post(api, node="north"), loop).result()

    posting = Posting(act)
    failure = await failure_of(RoutingActivities(store, posting).route_order, effect)
    assert (failure.type, failure.non_retryable) == ("outdated", False)
    assert await told(store, draft) == [], "nothing was stored that could be planned with it"
    again = await route(store, draft)
    assert again.plan is None if not units else nodes_of(again) == ["south"]


async def test_a_plan_is_found_before_the_order_s_row_knows_of_it(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = await an_order(store, north=5)
    effect = RouteOrder(order_id=order_id_of(draft), attempt=1, business_now=NOON)
    assert (await run(RoutingActivities(store, ExactRouter()).route_order, effect)).plan is not None
    await post(api, node="north")
    assert len(await told(store, draft)) == 1


async def test_a_notice_posted_twice_is_one_and_its_id_stands_for_no_other(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = await an_order(store, north=5)
    await route(store, draft)
    wish = said(node="north")
    first = (await api.post("/v1/routing/notices", json=wish)).json()
    try:
        assert (await api.post("/v1/routing/notices", json=wish)).json() == first
        other = await api.post("/v1/routing/notices", json=wish | {"node": "south"})
        assert (other.status_code, other.json()["code"]) == (409, "conflict")
        assert len(await told(store, draft)) == 1
    finally:
        await lift(api, first)


async def test_only_what_has_not_left_is_planned_anew(api: httpx.AsyncClient, store: Store) -> None:
    drafts = [await an_order(store, north=5) for _ in range(3)]
    for draft, state in zip(drafts, ("labelled", "handed_over", None), strict=True):
        answer = await route(store, draft)
        assert answer.plan is not None
        ref = answer.plan.shipments[0]
        if state is None:
            continue
        async with store.transaction() as session:
            await session.execute(
                text(
                    "INSERT INTO shipments (shipment_id, order_id, number, state, node, carrier, service, units, "
                    "amount_minor, currency, promised_at, late, version, created_at, updated_at) VALUES "
                    "(:id, :order_id, 1, :state, :node, :carrier, :service, 3, 100, 'GBP', now(), false, 1, now(), "
                    "now())"
                ),
                {
                    "id": f"{order_id_of(draft)}:1",
                    "order_id": order_id_of(draft),
                    "state": state,
                    "node": ref.node,
                    "carrier": ref.carrier,
                    "service": ref.service,
                },
            )
    notice = await post(api, carrier=ref.carrier)
    await lift(api, notice)
    packed, left, planned = [await told(store, draft) for draft in drafts]
    assert [one.shipments for one in packed] == [(1,)], "it is unpacked"
    assert left == [] and [one.shipments for one in planned] == [()]


async def test_a_region_concerns_the_addresses_in_it(api: httpx.AsyncClient, store: Store) -> None:
    draft = await an_order(store, north=5)
    first = await route(store, draft)
    postcode = draft.ship_to.postcode
    elsewhere = await post(api, country=draft.ship_to.country, prefix="ZZ9")
    assert await told(store, draft) == []
    late = await post(api, country=draft.ship_to.country, prefix=postcode[:2], delay_days=2)
    try:
        assert [one.shipments for one in await told(store, draft)] == [()]
        second = await route(store, draft, 2)
        assert first.plan is not None and second.plan is not None
        assert (second.plan.promised_at - first.plan.promised_at).days == 2
    finally:
        await lift(api, late)
        await lift(api, elsewhere)
    stop = await post(api, country=draft.ship_to.country)
    try:
        nothing = await route(store, draft, 3)
        assert nothing.plan is None
        assert nothing.unfillable[0].startswith("nothing goes to"), nothing.unfillable
    finally:
        await lift(api, stop)


async def test_orders_that_wait_are_told_when_it_is_lifted(api: httpx.AsyncClient, store: Store) -> None:
    waiting, going, other = [await an_order(store, north=units) for units in (0, 5, 0)]
    for draft, why in ((waiting, "south is closed: a flood"), (other, "nothing is there")):
        now = datetime.now(UTC)
        entry = TimelineEntry(
            entry_id=f"{order_id_of(draft)}:waits",
            order_id=order_id_of(draft),
            at=now,
            business_at=now,
            actor="orderwright",
            kind="order.backordered",
            what="order backordered",
            why=why,
        )
        async with store.transaction() as session:
            await record(session, order_id_of(draft), Carried(entries=(entry,)))
            await session.execute(
                text("UPDATE orders SET state = 'backordered' WHERE order_id = :id"),
                {"id": order_id_of(draft)},
            )
    notice = await post(api, node="south")
    await lift(api, notice)
    await lift(api, notice)
    assert [(one.event_id, one.waiting) for one in await told(store, waiting)] == [
        (f"notice-{notice['notice_id']}-lifted", True)
    ]
    assert await told(store, going) == await told(store, other) == [], "they do not wait for it"


async def test_a_shop_of_many_orders_is_told_piece_by_piece(api: httpx.AsyncClient, store: Store) -> None:
    drafts = [await an_order(store, north=5) for _ in range(5)]
    for draft in drafts:
        await route(store, draft)
    async with store.transaction() as session:
        wish = NoticePost.model_validate(said(node="north"))
        notice = await rerouting.post(session, wish)
        assert notice.spread_at is None and notice.orders == 0
    looked_at: list[int | None] = []
    while not looked_at or looked_at[-1] == 2:
        async with store.transaction() as session:
            looked_at.append(await rerouting.spread(session, 2))
    async with store.transaction() as session:
        assert await rerouting.spread(session, 2) is None
        done = await rerouting.notice(session, notice.notice_id)
    assert done.spread_at is not None and done.orders == sum(one or 0 for one in looked_at)
    assert [len(await told(store, draft)) for draft in drafts] == [1] * 5


async def test_one_that_cannot_be_told_holds_up_nobody(store: Store) -> None:
    drafts = [await an_order(store, north=5) for _ in range(2)]
    async with store.transaction() as session:
        for draft in drafts:
            message = PlanAgain(event_id="e", actor="dana", reason="a flood")
            await rerouting.tell_later(session, order_id_of(draft), message)
        ours = {order_id_of(draft) for draft in drafts}
        first, second = [one for one in await rerouting.untold(session, 10_000) if one.order_id in ours]
        await rerouting.put_off(session, first.plan_again_id)
        rest = [one.order_id for one in await rerouting.untold(session, 10_000) if one.order_id in ours]
        assert rest == [second.order_id, first.order_id]
        await rerouting.told_of(session, [second.plan_again_id])
        assert await rerouting.forget(session, timedelta(days=1), 10_000) == 0
        await rerouting.forget(session, timedelta(0), 10_000)
        assert [one.order_id for one in await rerouting.untold(session, 10_000) if one.order_id in ours] == [
            first.order_id
        ]


@pytest.mark.parametrize(
    ("says", "where"),
    [
        ({}, ""),
        ({"node": "north", "carrier": "islandpost"}, ""),
        ({"node": "mars"}, "node"),
        ({"carrier": "nobody"}, "carrier"),
        ({"service": "express"}, ""),
        ({"country": "GB", "delay_days": 0}, "delay_days"),
        ({"node": "north", "delay_days": 2}, ""),
        ({"node": "north", "ends_at": "2020-01-01T00:00:00Z"}, "ends_at"),
        ({"node": "north", "nonsense": 1}, "nonsense"),
    ],
)
async def test_a_notice_that_makes_no_sense_is_refused(
    api: httpx.AsyncClient, store: Store, says: dict[str, Any], where: str
) -> None:
    await an_order(store, north=5)
    answer = await api.post("/v1/routing/notices", json=said(**says))
    assert answer.status_code == 422, answer.text
    assert where in {problem["path"] for problem in answer.json()["problems"]}, answer.text


async def test_there_is_no_such_notice(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/routing/notices/999999/lift", json={"actor": "dana", "reason": "over"})
    assert answer.status_code == 404


async def test_an_order_avoids_what_refused_it(store: Store) -> None:
    draft = await an_order(store, north=5, south=5)
    (usual,) = nodes_of(await route(store, draft))
    answer = await route(store, draft, 2, avoid=(Avoided(node=usual, why="no_capacity"),))
    assert nodes_of(answer) == [{"north": "south", "south": "north"}[usual]]
    both = await route(store, draft, 3, avoid=(Avoided(node="north"), Avoided(node="south")))
    assert both.plan is None and any("north is left out" in reason for reason in both.unfillable)


# --- by hand ---
async def test_a_plan_is_previewed_set_and_made_by_the_order_s_run(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = await an_order(store, north=5, south=5)
    (usual,) = nodes_of(await route(store, draft))
    other = {"north": "south", "south": "north"}[usual]
    path = f"/v1/orders/{order_id_of(draft)}/route"
    wish = said(node=other, reason="the customer collects there")
    shown = await api.post(path, params={"preview": "true"}, json=wish)
    assert shown.status_code == 200, shown.text
    assert shown.json()["set_plan_id"] is None and await told(store, draft) == []
    assert [one["node"] for one in shown.json()["plan"]["shipments"]] == [other]
    assert shown.json()["difference"]["minor"] >= 0 and shown.json()["plan"]["set_by"] == "dana"
    done = (await api.post(path, json=wish)).json()
    assert (
        done["set_plan_id"] and (await api.post(path, json=wish)).json()["set_plan_id"] == done["set_plan_id"]
    )
    answer = await route(store, draft, 2, set_plan=done["set_plan_id"])
    assert nodes_of(answer) == [other] and answer.plan is not None and answer.plan.set_by == "dana"
    async with store.transaction() as session:
        made = await decision(session, order_id_of(draft))
    assert made.plan.reasons[0].startswith(
        "set by hand by dana: the customer collects there; the router's own"
    )
    assert made.problem is not None and differences(made.plan, made.problem) == []


async def test_one_that_cannot_be_made_any_more_leaves_it_to_the_router_and_says_so(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = await an_order(store, north=5, south=5)
    (usual,) = nodes_of(await route(store, draft))
    other = {"north": "south", "south": "north"}[usual]
    done = (await api.post(f"/v1/orders/{order_id_of(draft)}/route", json=said(node=other))).json()
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE stock SET on_hand = 1 WHERE node = :node AND sku = :sku"),
            {"node": other, "sku": skus_of(draft)[0]},
        )
    answer = await route(store, draft, 2, set_plan=done["set_plan_id"])
    assert nodes_of(answer) == [usual] and answer.plan is not None and answer.plan.set_by is None
    async with store.transaction() as session:
        reasons = (await decision(session, order_id_of(draft))).plan.reasons
    assert any("the plan that dana has set is not made" in reason for reason in reasons), reasons


async def test_what_cannot_be_sent_so_says_why_and_changes_nothing(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = await an_order(store, north=5, south=1)
    await route(store, draft)
    path = f"/v1/orders/{order_id_of(draft)}/route"
    short = (await api.post(path, json=said(node="south"))).json()
    assert short["plan"] is None and short["set_plan_id"] is None
    assert "2 more would have to lie there" in short["reasons"][0]
    nothing = await api.post(path, json=said())
    assert (nothing.status_code, nothing.json()["code"]) == (422, "invalid_request")
    assert (await api.post("/v1/orders/web:none/route", json=said(node="north"))).status_code == 404
    wish = said(node="north")
    assert (await api.post(path, json=wish)).status_code == 200
    another = await api.post(path, json=wish | {"reason": "another one"})
    assert (another.status_code, another.json()["code"]) == (409, "conflict")
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE orders SET state = 'closed', closed_at = now() WHERE order_id = :id"),
            {"id": order_id_of(draft)},
        )
    assert (await api.post(path, json=said(node="north"))).status_code == 409
