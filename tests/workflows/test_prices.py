"""A business's price list with everything real around it: from the file's content to a review, and to closed books."""

import asyncio
import json
import time
from typing import Any

import pytest

from models.order import CustomerType, OrderDraft
from models.states import OrderState
from tests.builders import a_draft, order_id_of, skus_of, stocked
from tests.workflows.stage import Stage, set_up

WORKER = "tests.workflows.saboteur"

pytestmark = pytest.mark.timeout(900)


class Played:
    """What became of a business's order and of a consumer's, both of one content."""

    consumer: dict[str, Any]
    review: dict[str, Any]
    preview: dict[str, Any]
    applied: dict[str, Any]
    closed: dict[str, Any]
    reviews_left: list[dict[str, Any]]
    assessments: list[dict[str, Any]]


def a_pair() -> tuple[OrderDraft, OrderDraft]:
    """Two lines of 2 units at 5.00 each, of a consumer and of a business with a list."""
    consumer = a_draft(2)
    business = a_draft(2, customer_type=CustomerType.B2B)
    person = business.customer.model_copy(update={"customer_ref": f"acme-{business.external_id}"})
    return consumer, business.model_copy(update={"customer": person})


async def post(stage: Stage, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await stage.api.post(path, json={"actor": "dana", **body})
    assert answer.status_code in (200, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def came_to(stage: Stage, draft: OrderDraft, state: OrderState) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    while True:
        found: dict[str, Any] = (await stage.api.get(f"/v1/orders/{order_id_of(draft)}")).json()
        if found["state"] == state:
            return found
        assert time.monotonic() < deadline, f"{draft.external_id} is {found['state']}, not {state}"
        await asyncio.sleep(0.2)


async def open_reviews(stage: Stage, draft: OrderDraft) -> list[dict[str, Any]]:
    rows = await stage.rows(
        "SELECT task FROM review_tasks WHERE order_id = :id AND state = 'open'", id=order_id_of(draft)
    )
    return [row["task"] for row in rows]


@pytest.fixture(scope="module")
async def played(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Played:
    told, folder = Played(), tmp_path_factory.mktemp("stage")
    (folder / "plan.json").write_text(json.dumps({}))
    consumer, business = a_pair()
    first, second = skus_of(business)
    async with set_up(folder, database_url) as stage:
        skus = {sku: 100 for draft in (consumer, business) for sku in skus_of(draft)}
        await stocked(stage.store, north=skus)
        # The first line is at the list's price; the second ought to cost 4.20.
        listed = [
            (first, 1, 500),
            (first, 12, 450),
            (second, 1, 420),
            *((s, 1, 1) for s in skus_of(consumer)),
        ]
        await post(
            stage,
            "/v1/price-lists",
            {
                "list_id": "trade",
                "name": "Trade",
                "currency": "GBP",
                "valid_from": "2026-01-01T00:00:00Z",
                "prices": [
                    {"sku": sku, "min_quantity": least, "unit_price_minor": price}
                    for sku, least, price in listed
                ],
            },
        )
        await post(
            stage,
            "/v1/price-lists/trade/assignments",
            {"kind": "customer", "assignee": business.customer.customer_ref},
        )
        async with stage.worker(WORKER):
            for draft in (consumer, business):
                await stage.submit(draft)
            await came_to(stage, business, OrderState.IN_REVIEW)
            [told.review] = await open_reviews(stage, business)
            told.consumer = await came_to(stage, consumer, OrderState.CLOSED)

            wish = {
                "request_id": "to-the-list",
                "reason": "the list's price, and more of the other",
                "lines": [
                    {"line_id": "1", "quantity": 12},
                    {"line_id": "2", "quantity": 2, "unit_price_minor": 420},
                ],
            }
            path = f"/v1/orders/{order_id_of(business)}/amendments"
            told.preview = await post(stage, f"{path}?preview=true", wish)
            told.applied = await post(stage, path, wish)
            told.closed = await came_to(stage, business, OrderState.CLOSED)
        told.reviews_left = await open_reviews(stage, business)
        told.assessments = await stage.rows(
            "SELECT what, why FROM timeline WHERE order_id = :id AND kind = 'order.assessed' ORDER BY position",
            id=order_id_of(business),
        )
    return told


async def test_a_price_that_is_not_the_lists_is_put_before_a_person_with_all_they_need(
    played: Played,
) -> None:
    assert played.review["kind"] == "risk"
    assert played.review["what_happened"].startswith("B2B order on web: 2 lines, 4 units")
    [flag] = played.review["why_flagged"]
    assert flag["code"] == "price_differs"
    assert (
        "are 10.00 GBP; price list trade (version 1) says 4.20 GBP from 1 unit on, which is 8.40 GBP"
        in (flag["reason"])
    )
    assert played.review["recommendation"].startswith(
        "In all the customer would pay 1.60 GBP too much. Find out"
    )
    assert set(played.review["options"]) == {"approve", "reject"}


async def test_a_consumer_is_not_asked_about_the_same_prices(played: Played) -> None:
    assert played.consumer["total"]["minor"] == 2_395


async def test_an_amendment_takes_the_lists_price_and_shows_it_before(played: Played) -> None:
    assert [line["amount_after"]["minor"] for line in played.preview["lines"]] == [5_400, 840]
    assert played.preview["total_after"]["minor"] == 5_400 + 840 + 395
    assert any("4.50 GBP from 12 units on, by price list trade" in note for note in played.preview["notes"])
    assert played.applied["preview"]["total_after"] == played.preview["total_after"]


async def test_an_order_at_the_lists_prices_goes_on_without_a_person(played: Played) -> None:
    assert played.closed["total"]["minor"] == 5_400 + 840 + 395
    assert played.reviews_left == []
    assert [one["what"] for one in played.assessments] == ["risk rules say review", "risk rules say pass"]
