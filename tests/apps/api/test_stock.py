"""Stock over HTTP: looking, telling, and being told what is wrong."""

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from activities.store.store import Store
from tests.builders import new_number, stocked


def a_count(sku: str, units: object, **changes: Any) -> dict[str, Any]:
    return {
        "document_id": f"CNT-{new_number()}",
        "actor": "dana",
        "node": "north",
        "lines": [{"sku": sku, "quantity": units}],
    } | changes


async def codes(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.headers["content-type"] == "application/problem+json"
    return [(problem["path"], problem["code"]) for problem in answer.json()["problems"]]


@pytest.fixture
async def sku(store: Store) -> str:
    name = f"SKU-{new_number()}"
    await stocked(store, north={name: 10}, south={})
    return name


async def test_what_is_told_of_stock_is_seen_with_its_movements(api: httpx.AsyncClient, sku: str) -> None:
    receipt = a_count(sku, 5, reason="PO 17")
    told = await api.post("/v1/stock/receive", json=receipt)
    assert told.status_code == 200
    assert told.json()["stock"] == [
        {"node": "north", "sku": sku, "on_hand": 15, "reserved": 0, "available": 15}
    ]
    assert (await api.post("/v1/stock/receive", json=receipt)).json()["repeated"]
    damage = a_count(sku, 1, reason="broken")
    assert (await api.post("/v1/stock/damage", json=damage)).status_code == 200
    change = a_count(sku, 0, reason="typed wrongly") | {"lines": [{"sku": sku, "change": -2}]}
    assert (await api.post("/v1/stock/adjust", json=change)).status_code == 200
    way = a_count(sku, 4, from_node="north", to_node="south")
    del way["node"]
    assert (await api.post("/v1/stock/transfer", json=way)).status_code == 200
    assert (await api.post("/v1/stock/count", json=a_count(sku, 7))).json()["stock"][0]["on_hand"] == 7
    view = (await api.get(f"/v1/stock/{sku}", params={"movements": 3})).json()
    assert (view["on_hand"], view["available"], view["in_transit"]) == (7, 7, 4)
    assert [(node["node"], node["on_hand"], node["in_transit"]) for node in view["nodes"]] == [
        ("north", 7, 0),
        ("south", 0, 4),
    ]
    assert [(moved["kind"], moved["on_hand"], moved["on_hand_after"]) for moved in view["movements"]] == [
        ("count", -1, 7),
        ("transfer_out", -4, 8),
        ("adjustment", -2, 12),
    ]
    arrived = a_count(sku, 4, node="south", transfer_id=way["document_id"])
    assert (await api.post("/v1/stock/receive", json=arrived)).status_code == 200
    view = (await api.get(f"/v1/stock/{sku}")).json()
    assert (view["on_hand"], view["in_transit"], len(view["movements"])) == (11, 0, 7)


async def test_goods_in_lots_are_received_shown_and_refused_with_a_code(
    api: httpx.AsyncClient, sku: str
) -> None:
    def of_lot(units: int, **lot: Any) -> dict[str, Any]:
        return a_count(sku, units) | {"lines": [{"sku": sku, "quantity": units} | lot]}

    receipt = of_lot(5, lot="L1", expires_on="2099-11-30")
    assert (await api.post("/v1/stock/receive", json=receipt)).status_code == 200
    north = (await api.get(f"/v1/stock/{sku}")).json()["nodes"][0]
    assert [(lot["lot"], lot["expires_on"], lot["on_hand"]) for lot in north["lots"]] == [
        ("L1", "2099-11-30", 5),
        (None, None, 10),
    ]
    for wrong, problem in (
        (of_lot(1, lot="L1", expires_on="2099-12-31"), "other_expiry"),
        (of_lot(1, lot="L2"), "expiry_missing"),
        (of_lot(1, lot="L2", expires_on="2001-12-31"), "expired"),
        (of_lot(1, expires_on="2099-12-31"), "expiry_without_lot"),
        (of_lot(1, lot="L2", expires_on="soon"), "date_parsing"),
        (of_lot(1, lot=""), "string_too_short"),
    ):
        answer = await api.post("/v1/stock/receive", json=wrong)
        assert answer.status_code == 422
        assert (await codes(answer))[0][1] == problem
    assert (await api.get(f"/v1/stock/{sku}")).json()["on_hand"] == 15


@pytest.mark.parametrize("units", [-1, 1.5, 2.0, "3", None, True, 10**12])
async def test_units_that_are_no_whole_number_of_pieces_are_refused(
    api: httpx.AsyncClient, sku: str, units: object
) -> None:
    answer = await api.post("/v1/stock/count", json=a_count(sku, units))
    assert answer.status_code == 422
    assert "lines[0].quantity" in [path for path, _ in await codes(answer)]
    assert (await api.get(f"/v1/stock/{sku}")).json()["on_hand"] == 10


async def test_nodes_and_skus_that_nobody_knows_are_named(api: httpx.AsyncClient, sku: str) -> None:
    answer = await api.post("/v1/stock/count", json=a_count("no such SKU", 1, node="nowhere"))
    assert answer.status_code == 422
    assert await codes(answer) == [("node", "unknown_node"), ("lines[0].sku", "unknown_sku")]
    assert (await api.get("/v1/stock/no-such-SKU")).status_code == 404


async def test_other_content_under_a_documents_id_is_a_conflict(api: httpx.AsyncClient, sku: str) -> None:
    count = a_count(sku, 9)
    await api.post("/v1/stock/count", json=count)
    answer = await api.post("/v1/stock/count", json=count | {"lines": [{"sku": sku, "quantity": 8}]})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_the_machines_own_name_tells_nothing(api: httpx.AsyncClient, sku: str) -> None:
    answer = await api.post("/v1/stock/count", json=a_count(sku, 9, actor="orderwright"))
    assert answer.status_code == 422
    assert [path for path, _ in await codes(answer)] == ["actor"]


async def test_a_sku_may_hold_what_has_a_meaning_in_addresses(api: httpx.AsyncClient, store: Store) -> None:
    sku = f"A/B c?{new_number()}%41"
    await stocked(store, north={sku: 3})
    answer = await api.get(f"/v1/stock/{quote(sku, safe='')}")
    assert (answer.status_code, answer.json().get("on_hand")) == (200, 3)


async def test_the_books_are_checked_and_stock_asks_for_a_token(api: httpx.AsyncClient, sku: str) -> None:
    account = (await api.get("/v1/stock")).json()
    assert account["rows"] > 0
    assert [one for one in account["differences"] if one["sku"] == sku] == []
    for path in ("/v1/stock", f"/v1/stock/{sku}"):
        assert (await api.get(path, headers={"Authorization": ""})).status_code == 401
    assert (await api.post("/v1/stock/count", json={}, headers={"Authorization": ""})).status_code == 401


async def test_rules_of_channels_are_set_seen_and_held_to(api: httpx.AsyncClient, sku: str) -> None:
    rule = {"rule_id": "own", "kind": "protect", "sku": sku, "node": "north", "channels": ["web"], "units": 4}
    policy = {"document_id": f"R-{new_number()}", "actor": "jo", "rules": [rule]}
    wrong = policy | {"rules": [rule | {"sku": "nothing"}]}
    answer = await api.put("/v1/stock/allocation", json=wrong)
    assert (answer.status_code, await codes(answer)) == (422, [("rules[0].sku", "unknown_sku")])
    try:
        answer = await api.put("/v1/stock/allocation", json=policy)
        assert answer.status_code == 200
        assert (await api.get("/v1/stock/allocation")).json() == answer.json()
        assert [state["rule"]["rule_id"] for state in answer.json()["rules"]] == ["own"]
        assert (await api.get(f"/v1/stock/{sku}")).json()["available"] == 6
        seen = [
            (await api.get("/v1/availability", params={"sku": sku} | to)).json()["skus"][0]["available"]
            for to in ({}, {"channel": "market"}, {"channel": "web", "tier": "gold"})
        ]
        assert seen == [6, 6, 10]
        conflict = await api.put("/v1/stock/allocation", json=policy | {"rules": []})
        assert conflict.status_code == 409
    finally:
        await api.put("/v1/stock/allocation", json=policy | {"document_id": f"R-{new_number()}", "rules": []})
