"""What can be promised, over HTTP: from the rows that reservations are made on, and from what is expected."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import text

from activities.store.store import Store
from tests.builders import new_number, stocked

SOON = (datetime.now(UTC) + timedelta(days=5)).date().isoformat()


def said(sku: str, units: int, **changes: Any) -> dict[str, Any]:
    return {
        "document_id": f"PO-{new_number()}",
        "actor": "erp",
        "node": "south",
        "lines": [{"sku": sku, "quantity": units}],
    } | changes


async def test_several_skus_are_answered_with_what_is_free_and_what_is_to_come(
    api: httpx.AsyncClient, store: Store
) -> None:
    sku, other = f"SKU-{new_number()}", f"SKU-{new_number()}"
    await stocked(store, north={sku: 10, other: 1}, south={sku: 3})
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE stock SET safety_stock = 4, reserved = 2 WHERE sku = :sku AND node = 'north'"),
            {"sku": sku},
        )
    supply = said(sku, 20, expected_on=SOON, supply_id=f"S-{sku}")
    assert (await api.post("/v1/stock/expect", json=supply)).status_code == 200
    arrived = said(sku, 5, supply_id=f"S-{sku}")
    assert (await api.post("/v1/stock/receive", json=arrived)).status_code == 200
    answer = await api.get("/v1/availability", params={"sku": [sku, other, "nowhere"], "destination": "GB"})
    assert answer.status_code == 200
    first, second, third = answer.json()["skus"]
    assert first == {
        "sku": sku,
        "available": 12,
        "later": [{"on": SOON, "quantity": 27}],
        "nodes": [
            {"node": "north", "available": 4, "later": []},
            {"node": "south", "available": 8, "later": [{"on": SOON, "quantity": 23}]},
        ],
    }
    assert (second["available"], third["available"], third["nodes"]) == (1, 0, [])
    # What is said last of a supply counts.
    await api.post(
        "/v1/stock/expect",
        json=supply | {"document_id": "again-" + sku, "lines": [{"sku": sku, "quantity": 0}]},
    )
    (again,) = (await api.get("/v1/availability", params={"sku": sku})).json()["skus"]
    assert (again["available"], again["later"]) == (12, [])


async def test_nodes_that_no_carrier_leaves_for_the_destination_promise_nothing(
    api: httpx.AsyncClient, store: Store
) -> None:
    sku = f"SKU-{new_number()}"
    await stocked(store, north={sku: 10})
    (found,) = (await api.get("/v1/availability", params={"sku": sku, "destination": "NZ"})).json()["skus"]
    assert (found["available"], found["nodes"]) == (0, [])


async def test_what_cannot_be_asked_is_refused(api: httpx.AsyncClient) -> None:
    for query in (
        "",
        "?sku=A&destination=England",
        "?sku=A&node=north",
        "?sku=A&destination=GB&destination=DE",
    ):
        assert (await api.get(f"/v1/availability{query}")).status_code == 422, query
    assert (await api.get("/v1/availability?sku=A", headers={"Authorization": ""})).status_code == 401


async def test_a_day_is_written_out(api: httpx.AsyncClient, store: Store) -> None:
    sku = f"SKU-{new_number()}"
    await stocked(store, north={sku: 1}, south={})
    for no_day in (0, 1772409600, "soon", "2026-03-02T00:00:01Z"):
        supply = said(sku, 20, expected_on=no_day, supply_id=f"S-{sku}")
        assert (await api.post("/v1/stock/expect", json=supply)).status_code == 422, no_day
