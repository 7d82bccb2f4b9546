"""Values of stock over HTTP: what the last run found, page by page, and a run for whoever cannot wait."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from sqlalchemy import text
from temporalio.client import Client

from activities.store import stock_values
from activities.store.network import load_network
from activities.store.store import Store
from models.values import ValuesWorkedOut
from policies.routing.problem import StockFigures
from tests.builders import a_network

RUN = ValuesWorkedOut(
    run_id="stock-values:test",
    worked_out_at=datetime(2026, 3, 2, 12, tzinfo=UTC),
    method="shadow-prices/1",
    window_days=28,
    least_lines=10,
)
FOUND = (
    StockFigures(sku="V-1", node="north", price_mills=120_000, sold=36, on_hand=9),
    StockFigures(sku="V-1", node="south", price_mills=0, sold=4, on_hand=60),
    StockFigures(sku="V-2", node="north", price_mills=None, sold=None, on_hand=3),
)


@pytest.fixture
async def valued(store: Store) -> AsyncIterator[None]:
    async with store.transaction() as session:
        await load_network(session, a_network("north", "south"))
        await stock_values.keep_run(session, RUN, FOUND)
    yield
    async with store.transaction() as session:
        await session.execute(text("DELETE FROM stock_values"))
        await session.execute(text("DELETE FROM stock_value_runs"))


async def test_before_the_first_run_there_is_nothing(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/routing/values")
    assert (answer.status_code, answer.json()) == (
        200,
        {"run": None, "currency": None, "values": [], "next_cursor": None},
    )


@pytest.mark.usefixtures("valued")
async def test_what_a_unit_is_worth_is_shown_page_by_page_beside_how_it_sells(api: httpx.AsyncClient) -> None:
    first = (await api.get("/v1/routing/values", params={"limit": 1})).json()
    assert first["run"]["run_id"] == RUN.run_id and first["currency"] == "GBP"
    assert [
        (one["node"], one["price_mills"], one["sell_through_percent"], one["weeks_of_supply"])
        for one in first["values"]
    ] == [("north", 120_000, 80, 1.0), ("south", 0, 6, 60.0)]
    # No policy looks ahead here.
    assert {one["look_ahead_mills"] for one in first["values"]} == {0}
    rest = (await api.get("/v1/routing/values", params={"limit": 1, "cursor": first["next_cursor"]})).json()
    assert [(one["sku"], one["price_mills"], one["weeks_of_supply"]) for one in rest["values"]] == [
        ("V-2", None, None)
    ]
    assert rest["next_cursor"] is None
    only = (await api.get("/v1/routing/values", params={"sku": "V-2"})).json()
    assert [one["sku"] for one in only["values"]] == ["V-2"]


@pytest.mark.usefixtures("valued")
async def test_a_strange_cursor_is_refused(api: httpx.AsyncClient) -> None:
    refused = await api.get("/v1/routing/values", params={"cursor": "made-up"})
    assert (refused.status_code, refused.json()["problems"][0]["code"]) == (422, "bad_cursor")


async def test_a_run_is_started_once_by_its_request(api: httpx.AsyncClient, client: Client) -> None:
    answers = [await api.post("/v1/routing/values/refresh", json={"request_id": "twice"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert {answer.json()["run_id"] for answer in answers} == {"stock-values:twice"}
    run = client.get_workflow_handle("stock-values:twice")
    assert (await run.describe()).workflow_type == "StockValuesWorkflow"
    await run.terminate("the test has seen it")
