"""Why an order goes its way, what if, and again: over HTTP, of a plan that the router made."""

import httpx
from sqlalchemy import text

from activities.routing import RoutingActivities
from activities.store.store import Store
from models.effects import RouteOrder
from policies.routing.exact import ExactRouter
from tests.activities.running import run
from tests.builders import NOON, a_draft, accepted, skus_of, stocked


async def routed(store: Store) -> str:
    draft = a_draft(quantity=3)
    order_id = await accepted(store, draft)
    (sku,) = skus_of(draft)
    await stocked(store, north={sku: 5}, south={sku: 1})
    routing = RoutingActivities(store, ExactRouter())
    answer = await run(routing.route_order, RouteOrder(order_id=order_id, attempt=1, business_now=NOON))
    assert answer.plan is not None, answer.unfillable
    return order_id


async def test_a_plan_is_explained_asked_and_decided_again(api: httpx.AsyncClient, store: Store) -> None:
    order_id = await routed(store)
    shown = (await api.get(f"/v1/orders/{order_id}/route")).json()
    assert (shown["plan_id"], shown["pinned"]) == (f"{order_id}:p1", True)
    assert shown["plan"]["proof"]["proven"] is True
    assert sum(term["amount"]["minor"] for term in shown["terms"]) == shown["plan"]["cost"]["minor"]
    again = (await api.post(f"/v1/orders/{order_id}/route/replay?plan={order_id}:p1")).json()
    assert (again["identical"], again["differences"]) == (True, [])
    forced = (await api.post(f"/v1/orders/{order_id}/route/what-if", json={"force": "south"})).json()
    assert forced["plan"] is None
    assert [line["quantity"] for line in forced["missing"]] == [2]
    without = (await api.post(f"/v1/orders/{order_id}/route/what-if", json={"without": "south"})).json()
    assert without["difference"]["minor"] == 0


async def test_what_cannot_be_answered_is_refused(api: httpx.AsyncClient, store: Store) -> None:
    order_id = await routed(store)
    path = f"/v1/orders/{order_id}/route"
    nothing = await api.post(f"{path}/what-if", json={})
    assert (nothing.status_code, nothing.json()["code"]) == (422, "invalid_request")
    unknown = await api.post(f"{path}/what-if", json={"force": "mars"})
    assert (unknown.status_code, unknown.json()["code"]) == (409, "refused")
    assert (await api.get(f"{path}?plan=web:none:p1")).status_code == 404
    assert (await api.get("/v1/orders/web:none/route")).status_code == 404
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE plans SET problem = NULL WHERE order_id = :order_id"), {"order_id": order_id}
        )
    assert (await api.get(path)).json()["pinned"] is False
    assert (await api.post(f"{path}/replay")).status_code == 409
