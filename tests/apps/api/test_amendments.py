"""Amendments over HTTP: what is shown, what is stored, what the run is told, and what a caller hears."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from activities.store import amendments
from activities.store.store import Store
from apps.api import runs
from apps.api.amendments import MAX_AMENDMENT_BYTES
from models.effects import ApplyAmendment
from models.messages import AmendOutcome
from models.money import Money
from models.review import ReviewKind
from models.states import OrderState
from tests.apps.api.builders import a_review, write_down
from tests.apps.api.test_orders import an_unstarted_order, heard, submitted
from tests.builders import stocked

# A draft of the builders: 2 of 85123A at 2.55, 3.95 postage, 9.05 in all.
GBP_0 = Money(minor=0, currency="GBP")


def wanting(quantity: int = 1, **changes: Any) -> dict[str, Any]:
    wish: dict[str, Any] = {
        "request_id": "a-1",
        "actor": "dana",
        "reason": "the customer wants fewer",
        "lines": [{"sku": "85123A", "quantity": quantity}],
    }
    return wish | changes


async def ask(api: httpx.AsyncClient, order_id: str, wish: dict[str, Any], query: str = "") -> httpx.Response:
    return await api.post(f"/v1/orders/{order_id}/amendments{query}", json=wish)


async def applied(store: Store, order_id: str, number: int) -> None:
    """What the run would do about it."""
    async with store.transaction() as session:
        answer = await amendments.apply(
            session,
            ApplyAmendment(order_id=order_id, amendment_id=f"{order_id}:a{number}", kept_amount=GBP_0),
        )
    assert answer.facts is not None


def problems(answer: httpx.Response) -> dict[str, str]:
    return {problem["path"]: problem["code"] for problem in answer.json()["problems"]}


async def test_preview_shows_the_money_and_stores_nothing(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    order_id = await submitted(api)
    answer = await ask(api, order_id, wanting(4), "?preview=true")
    assert answer.status_code == 200
    shown = answer.json()
    assert shown["total_before"] == {"minor": 905, "currency": "GBP"}
    assert shown["total_after"] == shown["to_authorise"] == {"minor": 1415, "currency": "GBP"}
    assert shown["lines"][0]["units_before"], shown["lines"][0]["units_after"] == (2, 4)
    assert (await api.get(f"/v1/orders/{order_id}/amendments")).json() == []
    assert (await heard(client, f"order:{order_id}")).messages == []


async def test_amendment_is_stored_and_the_run_is_asked_for_it(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    order_id = await submitted(api)
    answer = await ask(api, order_id, wanting())
    assert answer.status_code == 200
    taken = answer.json()
    assert (taken["amendment_id"], taken["number"], taken["outcome"]) == (f"{order_id}:a2", 2, "applying")
    assert taken["message"] == "shipment 1 is being called off"
    assert (await heard(client, f"order:{order_id}")).messages == [
        (
            "amend_order",
            {
                "request_id": "a-1",
                "actor": "dana",
                "reason": "the customer wants fewer",
                "amendment_id": f"{order_id}:a2",
                "number": 2,
                "total": {"minor": 650, "currency": "GBP"},
                "told": "",
            },
        )
    ]
    (listed,) = (await api.get(f"/v1/orders/{order_id}/amendments")).json()
    assert (listed["state"], listed["preview"]) == ("proposed", taken["preview"])


async def test_repeat_asks_the_run_again_until_it_is_decided(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    order_id = await submitted(api)
    first = await ask(api, order_id, wanting())
    again = await ask(api, order_id, wanting())
    assert again.json() == first.json()
    await applied(store, order_id, 2)
    done = await ask(api, order_id, wanting())
    assert (done.status_code, done.json()["outcome"]) == (200, AmendOutcome.APPLIED)
    assert len((await heard(client, f"order:{order_id}")).messages) == 2
    order = (await api.get(f"/v1/orders/{order_id}")).json()
    assert (order["document_version"], order["total"]["minor"], order["unit_count"]) == (2, 650, 1)


async def test_twenty_of_one_request_at_once_are_one_amendment(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    order_id = await submitted(api)
    answers = await asyncio.gather(*(ask(api, order_id, wanting()) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len((await api.get(f"/v1/orders/{order_id}/amendments")).json()) == 1
    told = (await heard(client, f"order:{order_id}")).messages
    assert {message["amendment_id"] for _, message in told} == {f"{order_id}:a2"}


async def test_another_request_under_the_same_id_is_a_conflict(
    api: httpx.AsyncClient, worker: Worker
) -> None:
    order_id = await submitted(api)
    await ask(api, order_id, wanting())
    answer = await ask(api, order_id, wanting(5))
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_what_the_run_refuses_is_answered_with_its_code(api: httpx.AsyncClient, worker: Worker) -> None:
    order_id = await submitted(api)
    answer = await ask(api, order_id, wanting(reason="declined"))
    assert (answer.status_code, answer.json()["code"]) == (409, "amendment_refused")
    assert problems(answer) == {"": "payment_declined"}
    assert answer.json()["detail"] == "the difference was declined"


async def test_what_the_run_does_not_even_take_is_a_conflict_in_its_words(
    api: httpx.AsyncClient, worker: Worker
) -> None:
    order_id = await submitted(api)
    answer = await ask(api, order_id, wanting(reason="too late"))
    assert (answer.status_code, answer.json()["code"]) == (409, "refused")
    assert answer.json()["detail"] == "the order is being settled"


async def test_without_a_worker_it_is_queued_and_heard_by_the_run_that_comes(
    api: httpx.AsyncClient, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "ANSWER_WITHIN", timedelta(seconds=1))
    order_id = await submitted(api)
    answer = await ask(api, order_id, wanting())
    assert (answer.status_code, answer.json()) == (202, {"status": "queued", "request_id": "a-1"})
    history = await client.get_workflow_handle(f"order:{order_id}").fetch_history()
    signals = [event.workflow_execution_signaled_event_attributes.signal_name for event in history.events]
    assert "amend_order" in signals


async def test_amendment_of_an_accepted_order_that_has_no_run_yet_starts_it(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    order_id = await an_unstarted_order(store)
    answer = await ask(api, order_id, wanting())
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    told = await heard(client, f"order:{order_id}")
    assert [name for name, _ in told.messages] == ["amend_order_later"]
    assert told.run["order_id"] == order_id


async def test_amendment_of_an_order_whose_run_was_lost_names_the_task_about_it(
    api: httpx.AsyncClient, store: Store
) -> None:
    order_id = await an_unstarted_order(store)
    task = a_review(order_id, kind=ReviewKind.RUN_BROKEN)
    await write_down(store, order_id, state=OrderState.ROUTING, reviews=(task,))
    answer = await ask(api, order_id, wanting())
    assert answer.status_code == 409
    assert task.task_id in answer.json()["detail"]


async def test_amendment_of_an_order_whose_run_has_ended_is_refused(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    order_id = await submitted(api)
    await write_down(store, order_id, state=OrderState.ROUTING)
    handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(f"order:{order_id}")
    await handle.signal("end")
    await handle.result()
    answer = await ask(api, order_id, wanting())
    assert (answer.status_code, answer.json()["code"]) == (409, "refused")


@pytest.mark.parametrize("query", ["", "?preview=true"])
@pytest.mark.parametrize(
    ("state", "code"),
    [
        (OrderState.CLOSED, "order_ended"),
        (OrderState.REJECTED, "order_ended"),
        (OrderState.CANCELLING, "being_cancelled"),
        (OrderState.SHIPPED, "everything_left"),
        (OrderState.DELIVERED, "everything_left"),
    ],
)
async def test_cut_offs_say_what_to_do_instead(
    api: httpx.AsyncClient, store: Store, state: OrderState, code: str, query: str
) -> None:
    order_id = await submitted(api)
    await write_down(store, order_id, state=state)
    answer = await ask(api, order_id, wanting(), query)
    assert (answer.status_code, answer.json()["code"]) == (409, "amendment_refused")
    assert problems(answer) == {"": code}
    assert "new" in answer.json()["detail"]
    assert (await api.get(f"/v1/orders/{order_id}/amendments")).json() == []


async def test_repeat_of_an_applied_amendment_is_answered_after_the_order_has_ended(
    api: httpx.AsyncClient, store: Store, worker: Worker
) -> None:
    order_id = await submitted(api)
    await ask(api, order_id, wanting())
    await applied(store, order_id, 2)
    await write_down(store, order_id, state=OrderState.CLOSED)
    answer = await ask(api, order_id, wanting())
    assert (answer.status_code, answer.json()["outcome"]) == (200, "applied")


async def test_version_that_the_caller_saw_is_compared(
    api: httpx.AsyncClient, store: Store, worker: Worker
) -> None:
    order_id = await submitted(api)
    await ask(api, order_id, wanting(base_version=1))
    await applied(store, order_id, 2)
    answer = await ask(api, order_id, wanting(3, request_id="a-2", base_version=1))
    assert (answer.status_code, problems(answer)) == (409, {"base_version": "stale_version"})
    assert (await ask(api, order_id, wanting(3, request_id="a-3", base_version=2))).status_code == 200


@pytest.mark.parametrize(
    ("wish", "path", "code"),
    [
        (wanting(0), "lines", "nothing_left"),
        (wanting(2), "", "nothing_changes"),
        (wanting(lines=[{"sku": "NEW", "quantity": 1}]), "lines[0].unit_price_minor", "price_missing"),
        (wanting(lines=[{"sku": "NEW", "quantity": 0}]), "lines[0]", "unknown_line"),
        (wanting(lines=[{"line_id": "1", "quantity": 1.5}]), "lines[0].quantity", "int_type"),
        (wanting(-1), "lines[0].quantity", "greater_than_equal"),
        (wanting(actor="orderwright"), "actor", "value_error"),
        (wanting(request_id="two words"), "request_id", "string_pattern_mismatch"),
        (wanting(service="express"), "service", "string_pattern_mismatch"),
        (wanting(colour="red"), "colour", "extra_forbidden"),
        (
            wanting(lines=[{"line_id": "1", "quantity": 1, "description": "a\x00b"}]),
            "lines[0].description",
            "bad_text",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_and_not_stored(
    api: httpx.AsyncClient, wish: dict[str, Any], path: str, code: str
) -> None:
    order_id = await submitted(api)
    answer = await ask(api, order_id, wish)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert problems(answer) == {path: code}
    assert (await api.get(f"/v1/orders/{order_id}/amendments")).json() == []


async def test_a_sku_that_nobody_stocks_is_refused_in_the_preview_too(
    api: httpx.AsyncClient, store: Store
) -> None:
    order_id = await submitted(api)
    wish = wanting(lines=[{"sku": "NO-SUCH-SKU", "quantity": 1, "unit_price_minor": 100}])
    for query in ("", "?preview=true"):
        answer = await ask(api, order_id, wish, query)
        assert (answer.status_code, problems(answer)) == (422, {"lines[0].sku": "unknown_sku"})
    assert (await api.get(f"/v1/orders/{order_id}/amendments")).json() == []


async def test_amendment_of_a_thousand_lines_is_read_and_a_larger_body_is_not(
    api: httpx.AsyncClient, worker: Worker, store: Store
) -> None:
    order_id = await submitted(api)
    await stocked(store, north={f"SKU-{number}": 1 for number in range(999)})
    lines = [
        {"sku": f"SKU-{number}", "quantity": 1, "unit_price_minor": 100, "description": "x" * 200}
        for number in range(999)
    ]
    assert (await ask(api, order_id, wanting(lines=lines))).status_code == 200
    answer = await ask(api, order_id, wanting(lines=lines, padding="x" * MAX_AMENDMENT_BYTES))
    assert answer.status_code == 413


async def test_names_and_addresses_are_not_shown(api: httpx.AsyncClient, worker: Worker) -> None:
    order_id = await submitted(api)
    elsewhere = {"lines": ["9 Secret Street"], "city": "Hiddenham", "country": "GB"}
    await ask(api, order_id, wanting(ship_to=elsewhere))
    shown = (await api.get(f"/v1/orders/{order_id}/amendments")).text
    assert "Hiddenham" not in shown
    assert "Wilhelmina" not in shown
    assert '"address_changes":true' in shown


async def test_amendments_of_an_order_that_does_not_exist_are_not_found(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/orders/web:none/amendments")).status_code == 404
    for query in ("", "?preview=true"):
        assert (await ask(api, "web:none", wanting(), query)).status_code == 404
