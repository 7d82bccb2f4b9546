import asyncio
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.worker import Worker

from activities.store.intake import accept_draft, mark_started
from activities.store.store import Store
from apps.api.application import create_app
from apps.api.metrics import Metrics
from apps.api.parts import Parts
from apps.api.runs import Runs
from models import search
from models.order import MAX_DOCUMENT_BYTES, OrderDraft
from models.review import ReviewKind
from models.states import OrderState
from tests.apps.api.builders import a_draft, a_review, an_entry, new_number, write_down
from tests.apps.api.conftest import TOKEN
from tests.apps.api.rehearsal import Heard
from workers.settings import Settings


async def heard(client: Client, workflow_id: str) -> Heard:
    handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(workflow_id)
    answer: Heard = await handle.query("heard", result_type=Heard)
    return answer


async def submitted(api: httpx.AsyncClient, document: dict[str, Any] | None = None) -> str:
    answer = await api.post("/v1/orders", json=document or a_draft())
    assert answer.status_code == 202, answer.text
    order_id: str = answer.json()["order_id"]
    return order_id


async def test_new_order_is_accepted_with_links_and_its_run_starts(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    document = a_draft()
    answer = await api.post("/v1/orders", json=document)

    assert answer.status_code == 202
    accepted = answer.json()
    order_id = f"web:{document['external_id']}"
    assert accepted["order_id"] == order_id
    assert accepted["workflow_id"] == f"order:{order_id}"
    assert accepted["state"] == "received"
    assert answer.headers["Location"] == accepted["links"]["self"] == f"/v1/orders/{order_id}"
    assert (await api.get(accepted["links"]["self"])).json()["order_id"] == order_id

    run = (await heard(client, f"order:{order_id}")).run
    assert run["order_id"] == order_id
    assert run["document_hash"]
    assert run["draft"] is None, "documents stay in the database"
    described = await client.get_workflow_handle(f"order:{order_id}").describe()
    assert described.workflow_type == "OrderWorkflow"
    attributes = described.typed_search_attributes
    assert attributes.get(search.STATE) == "received"
    assert attributes.get(search.CHANNEL) == "web"
    assert attributes.get(search.CUSTOMER_TYPE) == "b2c"
    assert attributes.get(search.TOTAL_MINOR) == 905
    assert attributes.get(search.NEEDS_REVIEW) is False
    summary = await described.static_summary()
    assert summary is not None
    assert order_id in summary
    assert "Wilhelmina" not in summary


async def test_business_start_header_reaches_the_run(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    answer = await api.post(
        "/v1/orders", json=a_draft(), headers={"Orderwright-Business-Start": "2011-09-01T08:00:00Z"}
    )
    run = (await heard(client, answer.json()["workflow_id"])).run
    assert run["clock"] == {"speed": 1.0, "business_start": "2011-09-01T08:00:00Z"}


@pytest.mark.parametrize("value", ["yesterday", "2011-09-01T08:00:00"])
async def test_business_start_without_a_zone_or_sense_is_refused(api: httpx.AsyncClient, value: str) -> None:
    answer = await api.post("/v1/orders", json=a_draft(), headers={"Orderwright-Business-Start": value})
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["path"] == "Orderwright-Business-Start"


async def test_same_document_again_is_the_same_order(api: httpx.AsyncClient, client: Client) -> None:
    document = a_draft()
    first = await api.post("/v1/orders", json=document)
    again = await api.post("/v1/orders", content=json.dumps(document, indent=3, sort_keys=True))
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]


async def test_same_document_sent_twenty_times_at_once_is_one_order(api: httpx.AsyncClient) -> None:
    document = a_draft()
    answers = await asyncio.gather(*(api.post("/v1/orders", json=document) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]


async def test_same_number_with_other_content_is_a_conflict(api: httpx.AsyncClient) -> None:
    number = new_number()
    await submitted(api, a_draft(number, quantity=2))
    answer = await api.post("/v1/orders", json=a_draft(number, quantity=3))
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["type"] == "urn:orderwright:error:conflict"
    assert number in problem["detail"]


async def test_order_that_ended_long_ago_is_not_run_again(
    api: httpx.AsyncClient, client: Client, store: Store, worker: Worker
) -> None:
    document = a_draft()
    # Somebody started it by another door, and it has ended.
    first_run = await an_ended_run(client, document)
    async with store.transaction() as session:
        draft = OrderDraft.model_validate(document)
        order_id = (await accept_draft(session, draft, source="temporal")).order_id
        await mark_started(session, order_id)
    await write_down(store, order_id, state=OrderState.CLOSED)

    assert (await api.post("/v1/orders", json=document)).status_code == 200
    assert (await client.get_workflow_handle(f"order:{order_id}").describe()).run_id == first_run


async def test_order_whose_id_an_unusable_start_had_taken_is_run_all_the_same(
    api: httpx.AsyncClient, client: Client, store: Store, worker: Worker
) -> None:
    document = a_draft()
    order_id = f"web:{document['external_id']}"
    # A Temporal client started this id with a document that was refused: the run left a timeline, but no order.
    first_run = await an_ended_run(client, document | {"lines": []})
    await write_down(store, order_id, entries=(an_entry(order_id, 0), an_entry(order_id, 1)))

    assert (await api.post("/v1/orders", json=document)).status_code == 202
    described = await client.get_workflow_handle(f"order:{order_id}").describe()
    assert described.run_id != first_run
    assert described.status is WorkflowExecutionStatus.RUNNING
    run = (await heard(client, f"order:{order_id}")).run
    assert run["draft"] is None
    assert run["memory"]["entry_count"] == 2
    assert (await api.post("/v1/orders", json=document)).status_code == 200
    assert (await client.get_workflow_handle(f"order:{order_id}").describe()).run_id == described.run_id


async def an_ended_run(client: Client, document: dict[str, Any]) -> str | None:
    handle = await client.start_workflow(
        "OrderWorkflow",
        {"draft": document},
        id=f"order:{document['channel']}:{document['external_id']}",
        task_queue="oms-workflows",
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
    )
    await handle.signal("end")
    await handle.result()
    return (await handle.describe()).run_id


async def test_every_problem_is_listed_at_once(api: httpx.AsyncClient) -> None:
    document = a_draft()
    document["currency"] = "XXX"
    document["lines"][0]["quantity"] = 0
    document["chanel"] = "web"
    answer = await api.post("/v1/orders", json=document)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "invalid_document"
    assert problem["status"] == 422
    assert {entry["path"] for entry in problem["problems"]} == {"currency", "lines[0].quantity", "chanel"}
    assert all(entry["code"] and entry["message"] for entry in problem["problems"])


async def test_refused_document_leaves_nothing_behind(api: httpx.AsyncClient) -> None:
    document = a_draft()
    document["totals"]["total_minor"] += 1
    assert (await api.post("/v1/orders", json=document)).status_code == 422
    assert (await api.get(f"/v1/orders/web:{document['external_id']}")).status_code == 404


async def test_document_over_five_megabytes_is_refused_by_its_announced_length(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.post("/v1/orders", content=b" " * (MAX_DOCUMENT_BYTES + 1))
    assert answer.status_code == 413
    assert answer.json()["code"] == "document_too_large"


async def test_endless_document_is_refused_while_it_is_read(api: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 65536
            yield b" " * 65536

    answer = await api.post("/v1/orders", content=endless())
    assert answer.status_code == 413
    assert sent <= MAX_DOCUMENT_BYTES + 2 * 65536


async def test_order_shows_lines_and_money_but_no_person(api: httpx.AsyncClient) -> None:
    order_id = await submitted(api)
    answer = await api.get(f"/v1/orders/{order_id}")
    assert answer.status_code == 200
    order = answer.json()
    assert order["state"] == "received"
    assert order["total"] == {"minor": 905, "currency": "GBP"}
    assert order["lines"][0]["sku"] == "85123A"
    assert order["shipments"] == order["reviews"] == []
    assert "Wilhelmina" not in answer.text
    assert "Hidden Lane" not in answer.text


@pytest.mark.parametrize(
    "order_id", ["web:nobody", "nonsense", "web:%00", "web:a b", "WEB:1", "%F0%9F%92%A5:1"]
)
@pytest.mark.parametrize("what", ["", "/timeline"])
async def test_unknown_order_is_not_found(api: httpx.AsyncClient, order_id: str, what: str) -> None:
    answer = await api.get(f"/v1/orders/{order_id}{what}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


async def test_timeline_tells_what_happened_in_order(api: httpx.AsyncClient, store: Store) -> None:
    order_id = await submitted(api)
    await write_down(store, order_id, entries=(an_entry(order_id, 1), an_entry(order_id, 2)))
    entries = (await api.get(f"/v1/orders/{order_id}/timeline")).json()
    assert [entry["entry_id"] for entry in entries] == [f"order:{order_id}/1", f"order:{order_id}/2"]
    assert entries[0]["what"] == "The risk rules were applied"


async def test_refused_document_of_a_temporal_client_can_be_looked_into(
    api: httpx.AsyncClient, store: Store
) -> None:
    order_id = f"web:{new_number()}"
    await write_down(store, order_id, entries=(an_entry(order_id, 0, why="lines: has no lines"),))
    (entry,) = (await api.get(f"/v1/orders/{order_id}/timeline")).json()
    assert entry["why"] == "lines: has no lines"
    for answer in (
        await api.get(f"/v1/orders/{order_id}"),
        await api.post(f"/v1/orders/{order_id}/cancel", json={"actor": "a", "reason": "r"}),
    ):
        assert answer.status_code == 404
        assert answer.json()["code"] == "never_accepted"
        assert f"/v1/orders/{order_id}/timeline" in answer.json()["detail"]


async def test_order_that_nothing_happened_to_yet_has_an_empty_timeline(api: httpx.AsyncClient) -> None:
    order_id = await submitted(api)
    assert (await api.get(f"/v1/orders/{order_id}/timeline")).json() == []


async def test_pages_of_orders_hold_each_order_once_newest_first(api: httpx.AsyncClient) -> None:
    channel = f"pages{new_number().replace('-', '')}"
    sent = [await submitted(api, a_draft(channel=channel)) for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        parameters = {"channel": channel, "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/v1/orders", params=parameters)).json()
        assert len(page["orders"]) <= 2
        seen += [order["order_id"] for order in page["orders"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sent[::-1]


async def test_orders_are_filtered_by_state(api: httpx.AsyncClient, store: Store) -> None:
    channel = f"states{new_number().replace('-', '')}"
    released = await submitted(api, a_draft(channel=channel))
    await submitted(api, a_draft(channel=channel))
    await write_down(store, released, state=OrderState.RELEASED)
    page = (await api.get("/v1/orders", params={"channel": channel, "state": "released"})).json()
    assert [order["order_id"] for order in page["orders"]] == [released]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("state", "lost_in_space"),
        ("limit", "201"),
        ("limit", "0"),
        ("cursor", "not-a-cursor"),
        ("cursor", "W1sxXSwgMl0="),
        ("channel", "UPPER"),
        ("customer_type", "b2x"),
        ("needs_review", "perhaps"),
    ],
)
async def test_wrong_filter_is_a_named_problem(api: httpx.AsyncClient, parameter: str, value: str) -> None:
    answer = await api.get("/v1/orders", params={parameter: value})
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "invalid_request"
    assert [entry["path"] for entry in problem["problems"]] == [parameter]


async def test_cancel_is_answered_by_the_running_order(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    order_id = await submitted(api)
    wish = {"actor": "dana", "reason": "ordered twice", "request_id": "c-1"}
    answer = await api.post(f"/v1/orders/{order_id}/cancel", json=wish)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "answered",
        "request_id": "c-1",
        "outcome": "cancelling",
        "message": "stock is freed",
    }
    again = await api.post(f"/v1/orders/{order_id}/cancel", json=wish)
    assert again.json() == answer.json()
    # The run is asked again, for it may know more by now; by its request id it knows it for the same wish.
    assert (await heard(client, f"order:{order_id}")).messages == [("cancel", wish)] * 2


async def test_cancel_that_the_run_refuses_is_a_conflict_in_its_words(
    api: httpx.AsyncClient, worker: Worker
) -> None:
    order_id = await submitted(api)
    answer = await api.post(
        f"/v1/orders/{order_id}/cancel", json={"actor": "dana", "reason": "after hand-over"}
    )
    assert answer.status_code == 409
    assert answer.json()["code"] == "refused"
    assert answer.json()["detail"] == "every parcel is on its way"


async def test_cancel_of_an_ended_order_is_refused(api: httpx.AsyncClient, store: Store) -> None:
    order_id = await submitted(api)
    await write_down(store, order_id, state=OrderState.REJECTED)
    answer = await api.post(f"/v1/orders/{order_id}/cancel", json={"actor": "dana", "reason": "late"})
    assert answer.status_code == 409
    assert "already rejected" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("state", "outcome"), [(OrderState.CANCELLED, "cancelling"), (OrderState.CLOSED, "partly")]
)
async def test_cancel_repeated_after_its_answer_was_lost_is_no_conflict(
    api: httpx.AsyncClient, store: Store, state: OrderState, outcome: str
) -> None:
    order_id = await submitted(api)
    entry = an_entry(order_id, kind="cancel.requested", details={"request_id": "c-7"})
    await write_down(store, order_id, state=state, entries=(entry,))
    wish = {"actor": "dana", "reason": "ordered twice", "request_id": "c-7"}
    answer = await api.post(f"/v1/orders/{order_id}/cancel", json=wish)
    assert answer.status_code == 200
    assert (answer.json()["request_id"], answer.json()["outcome"]) == ("c-7", outcome)
    for other in ({"request_id": "c-8"}, {"request_id": None}):
        again = await api.post(f"/v1/orders/{order_id}/cancel", json=wish | other)
        assert again.status_code == 409


async def an_unstarted_order(store: Store) -> str:
    """Accepted while Temporal was down, and the sweeper comes in an hour."""
    async with store.transaction() as session:
        draft = OrderDraft.model_validate(a_draft())
        accepted = await accept_draft(session, draft, source="api")
        await session.execute(
            text("UPDATE intake SET try_at = now() + interval '1 hour' WHERE order_id = :id"),
            {"id": accepted.order_id},
        )
    return accepted.order_id


async def test_cancel_of_an_accepted_order_that_has_no_run_yet_starts_it_with_the_wish(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    order_id = await an_unstarted_order(store)
    wish = {"actor": "dana", "reason": "ordered twice", "request_id": "c-1"}
    answer = await api.post(f"/v1/orders/{order_id}/cancel", json=wish)
    assert (answer.status_code, answer.json()["status"], answer.json()["request_id"]) == (
        202,
        "queued",
        "c-1",
    )
    said = await heard(client, f"order:{order_id}")
    assert said.messages == [("cancel_order", wish)]
    assert (said.run["order_id"], said.run["draft"]) == (order_id, None)
    described = await client.get_workflow_handle(f"order:{order_id}").describe()
    assert described.typed_search_attributes.get(search.CHANNEL) == "web"
    async with store.transaction() as session:
        state = await session.scalar(text("SELECT state FROM intake WHERE order_id = :id"), {"id": order_id})
    assert state == "started"
    assert (await api.post(f"/v1/orders/{order_id}/cancel", json=wish)).status_code == 200


async def test_cancel_of_an_order_without_a_run_is_put_off_while_temporal_does_not_answer(
    settings: Settings, store: Store
) -> None:
    order_id = await an_unstarted_order(store)
    app = create_app(settings)
    app.state.parts = Parts(settings=settings, store=store, runs=Runs(), metrics=Metrics())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://api",
        headers={"Authorization": f"Bearer {TOKEN}"},
    ) as caller:
        answer = await caller.post(
            f"/v1/orders/{order_id}/cancel", json={"actor": "dana", "reason": "ordered twice"}
        )
    assert answer.status_code == 503


async def test_cancel_of_an_order_whose_run_was_lost_names_the_task_about_it(
    api: httpx.AsyncClient, store: Store
) -> None:
    order_id = await an_unstarted_order(store)
    task = a_review(order_id, kind=ReviewKind.RUN_BROKEN)
    await write_down(store, order_id, state=OrderState.ROUTING, reviews=(task,))
    answer = await api.post(f"/v1/orders/{order_id}/cancel", json={"actor": "dana", "reason": "late"})
    assert answer.status_code == 409
    assert task.task_id in answer.json()["detail"]


async def test_cancel_of_an_order_whose_run_has_ended_is_refused(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    order_id = await submitted(api)
    await write_down(store, order_id, state=OrderState.ROUTING)
    handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(f"order:{order_id}")
    await handle.signal("end")
    await handle.result()
    answer = await api.post(f"/v1/orders/{order_id}/cancel", json={"actor": "dana", "reason": "late"})
    assert answer.status_code == 409
    assert answer.json()["code"] == "refused"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"reason": "r"}, "actor"),
        ({"actor": "a", "reason": ""}, "reason"),
        ({"actor": "orderwright", "reason": "r"}, "actor"),
        ({"actor": "Temporal", "reason": "r"}, "actor"),
        ({"actor": "a", "reason": "r", "request_id": "two words"}, "request_id"),
        ({"actor": "a", "reason": "r", "raeson": "r"}, "raeson"),
    ],
)
async def test_cancel_names_what_is_wrong_with_its_body(
    api: httpx.AsyncClient, body: dict[str, str], path: str
) -> None:
    answer = await api.post("/v1/orders/web:nobody/cancel", json=body)
    assert answer.status_code == 422
    assert [problem["path"] for problem in answer.json()["problems"]] == [path]
