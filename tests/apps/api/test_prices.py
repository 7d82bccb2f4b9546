"""Price lists over HTTP: loaded as a whole, assigned once, and asked for a price."""

import asyncio
from typing import Any

import httpx
import pytest

from apps.api import examples
from models.prices import MAX_PRICES
from tests.apps.api.builders import a_draft, new_number


def a_list(**changes: Any) -> dict[str, Any]:
    return examples.PRICE_LIST_REQUEST | {"list_id": f"list-{new_number()}"} | changes


async def loaded(api: httpx.AsyncClient, **changes: Any) -> str:
    answer = await api.post("/v1/price-lists", json=a_list(**changes))
    assert answer.status_code == 200, answer.text
    list_id: str = answer.json()["price_list"]["list_id"]
    return list_id


async def assigned(api: httpx.AsyncClient, list_id: str, **whom: Any) -> httpx.Response:
    return await api.post(f"/v1/price-lists/{list_id}/assignments", json={"actor": "dana", **whom})


async def problems(api: httpx.AsyncClient, **changes: Any) -> list[tuple[str, str]]:
    answer = await api.post("/v1/price-lists", json=a_list(**changes))
    assert answer.status_code == 422, answer.text
    return [(one["path"], one["code"]) for one in answer.json()["problems"]]


async def test_a_list_is_loaded_read_and_loaded_again(api: httpx.AsyncClient) -> None:
    document = a_list()
    first = (await api.post("/v1/price-lists", json=document)).json()
    again = (await api.post("/v1/price-lists", json=document)).json()
    assert (first["changed"], again["changed"], first["price_list"]["version"]) == (True, False, 1)
    assert again["price_list"] == first["price_list"]
    shown = (await api.get(f"/v1/price-lists/{document['list_id']}?sku=85123A")).json()
    assert [price["unit_price"]["minor"] for price in shown["prices"]] == [255, 210]
    listed = (await api.get("/v1/price-lists")).json()["lists"]
    assert first["price_list"] in listed


async def test_all_that_is_wrong_with_a_list_is_said_at_once_and_nothing_is_kept(
    api: httpx.AsyncClient,
) -> None:
    price = examples.PRICE_LIST_REQUEST["prices"][0]
    assert await problems(
        api, currency="XXX", prices=[price | {"unit_price_minor": -1}, price | {"min_quantity": 1.5}, price]
    ) == [
        ("currency", "value_error"),
        ("prices[0].unit_price_minor", "greater_than_equal"),
        ("prices[1].min_quantity", "int_type"),
    ]
    list_id = f"list-{new_number()}"
    assert await problems(
        api, list_id=list_id, valid_until="2025-01-01T00:00:00Z", prices=[price, price]
    ) == [
        ("valid_until", "never_valid"),
        ("prices[1].min_quantity", "duplicate_price"),
    ]
    assert await problems(api, prices=[price] * (MAX_PRICES + 1)) == [("prices", "too_long")]
    assert await problems(api, actor="orderwright") == [("actor", "value_error")]
    assert (await api.get(f"/v1/price-lists/{list_id}")).status_code == 404


async def test_a_long_list_fits(api: httpx.AsyncClient) -> None:
    prices = [{"sku": f"SKU-{n:06}", "min_quantity": 1, "unit_price_minor": n} for n in range(MAX_PRICES)]
    list_id = await loaded(api, prices=prices)
    shown = (await api.get(f"/v1/price-lists/{list_id}?from_sku=SKU-019000&limit=1000")).json()
    assert shown["price_list"]["prices"] == MAX_PRICES
    assert (len(shown["prices"]), shown["next_sku"]) == (1_000, None)


async def test_a_price_is_asked_for_by_customer_account_and_list(api: httpx.AsyncClient) -> None:
    list_id, customer = await loaded(api), f"acme-{new_number()}"
    for kind in ("customer", "account"):
        answer = await assigned(api, list_id, kind=kind, assignee=customer)
        assert answer.status_code == 200, answer.text
    at = "at=2026-05-01T12:00:00Z"
    for whose in (f"customer={customer}&{at}", f"account={customer}&{at}", f"price_list={list_id}"):
        price = (await api.get(f"/v1/prices?sku=85123A&quantity=48&{whose}")).json()
        assert (price["unit_price"]["minor"], price["list_id"], price["next_break"]) == (210, list_id, None)
    for asked, status, code in (
        (f"customer={customer}&sku=NONE&{at}", 404, "price_not_listed"),
        (f"customer={customer}&sku=85123A&currency=EUR&{at}", 409, "currency_mismatch"),
        (f"customer={customer}&sku=85123A&at=2020-05-01T12:00:00Z", 404, "no_price_list"),
        (f"customer=nobody-{customer}&sku=85123A&{at}", 404, "no_price_list"),
        ("price_list=no-such-list&sku=85123A", 404, "not_found"),
        (f"price_list={list_id}&customer={customer}&sku=85123A", 422, "invalid_request"),
        (f"customer={customer}&sku=85123A&quantity=0", 422, "invalid_request"),
        (f"customer={customer}&sku=85123A&colour=red", 422, "invalid_request"),
    ):
        answer = await api.get(f"/v1/prices?{asked}")
        assert (answer.status_code, answer.json()["code"]) == (status, code), asked


async def test_a_second_list_for_the_same_time_is_refused_and_one_withdrawn_makes_room(
    api: httpx.AsyncClient,
) -> None:
    first, second, customer = await loaded(api), await loaded(api), f"acme-{new_number()}"
    whom = {"kind": "customer", "assignee": customer}
    assert (await assigned(api, first, **whom)).status_code == 200
    refused = await assigned(api, second, **whom)
    assert (refused.status_code, refused.json()["code"]) == (409, "price_lists_overlap")
    gone = await assigned(api, first, **whom, withdrawn=True)
    assert (gone.status_code, gone.json()["assigned_to"]) == (200, [])
    assert (await assigned(api, second, **whom)).status_code == 200
    assert (await assigned(api, "no-such-list", **whom)).status_code == 404


async def test_a_list_keeps_its_currency(api: httpx.AsyncClient) -> None:
    list_id = await loaded(api)
    answer = await api.post("/v1/price-lists", json=a_list(list_id=list_id, currency="EUR"))
    assert (answer.status_code, answer.json()["code"]) == (409, "currency_mismatch")


@pytest.mark.parametrize(
    "whom",
    [{"kind": "customer"}, {"kind": "every_business", "assignee": "acme"}, {"kind": "nobody"}],
)
async def test_an_assignment_names_somebody(api: httpx.AsyncClient, whom: dict[str, Any]) -> None:
    assert (await assigned(api, await loaded(api), **whom)).status_code == 422


async def test_two_loads_at_once_are_two_versions(api: httpx.AsyncClient) -> None:
    documents = [a_list(list_id=f"list-{new_number()}", name=f"Load {n}") for n in range(2)]
    documents[1]["list_id"] = documents[0]["list_id"]
    answers = await asyncio.gather(*(api.post("/v1/price-lists", json=one) for one in documents))
    assert sorted(answer.json()["price_list"]["version"] for answer in answers) == [1, 2]


async def test_an_amendment_is_previewed_with_the_lists_price(api: httpx.AsyncClient) -> None:
    document = a_draft()
    line, customer = document["lines"][0], f"acme-{new_number()}"
    document |= {"customer_type": "b2b", "customer": document["customer"] | {"customer_ref": customer}}
    agreed = [(line["quantity"], line["unit_price_minor"]), (50, 1)]
    list_id = await loaded(
        api,
        valid_from="2000-01-01T00:00:00Z",
        valid_until=None,
        prices=[
            {"sku": line["sku"], "min_quantity": least, "unit_price_minor": price} for least, price in agreed
        ],
    )
    await assigned(api, list_id, kind="customer", assignee=customer)
    order_id = (await api.post("/v1/orders", json=document)).json()["order_id"]
    wish = {
        "request_id": new_number(),
        "actor": "dana",
        "reason": "more",
        "lines": [{"line_id": line["line_id"], "quantity": 50}],
    }
    shown = (await api.post(f"/v1/orders/{order_id}/amendments?preview=true", json=wish)).json()
    assert shown["lines"][0]["amount_after"]["minor"] == 50
    assert any(f"0.01 GBP from 50 units on, by price list {list_id}" in note for note in shown["notes"])
    wish["lines"] = [{"sku": "not-in-the-list", "quantity": 1}]
    answer = await api.post(f"/v1/orders/{order_id}/amendments?preview=true", json=wish)
    assert [one["code"] for one in answer.json()["problems"]] == ["price_not_listed"]
