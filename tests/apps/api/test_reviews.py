from typing import Any

import httpx
import pytest
from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    StartWorkflowUpdateInput,
    WorkflowUpdateHandle,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from activities.store.store import Store
from apps.api.application import create_app
from models.review import ReviewTask, Verdict
from models.states import OrderState, ReviewState
from tests.apps.api.builders import a_review, write_down
from tests.apps.api.conftest import rehearsing, serving
from tests.apps.api.test_orders import heard, submitted
from workers.settings import Settings

DECISION = {"verdict": "approve", "actor": "dana", "reason": "known customer", "request_id": "d-1"}


async def an_order_in_review(api: httpx.AsyncClient, store: Store, **changes: Any) -> ReviewTask:
    order_id = await submitted(api)
    task = a_review(order_id, **changes)
    await write_down(store, order_id, state=OrderState.IN_REVIEW, reviews=(task,))
    return task


async def test_open_review_is_listed_with_all_it_takes_to_decide(
    api: httpx.AsyncClient, store: Store
) -> None:
    task = await an_order_in_review(api, store)
    listed = (await api.get("/v1/reviews", params={"order_id": task.order_id})).json()["reviews"]
    assert [ReviewTask.model_validate(review) for review in listed] == [task]
    assert (await api.get(f"/v1/reviews/{task.task_id}")).json() == listed[0]
    orders = (await api.get("/v1/orders", params={"needs_review": "true", "limit": "200"})).json()["orders"]
    assert task.order_id in [order["order_id"] for order in orders]


async def test_decided_reviews_are_listed_when_asked_for(api: httpx.AsyncClient, store: Store) -> None:
    task = await an_order_in_review(
        api, store, state=ReviewState.DECIDED, verdict=Verdict.REJECT, decided_by="kim", reason="no"
    )
    of_order = {"order_id": task.order_id}
    assert (await api.get("/v1/reviews", params=of_order)).json()["reviews"] == []
    for state in ("decided", "all"):
        listed = (await api.get("/v1/reviews", params=of_order | {"state": state})).json()["reviews"]
        assert [review["task_id"] for review in listed] == [task.task_id]


async def test_pages_of_reviews_hold_each_task_once_oldest_first(
    api: httpx.AsyncClient, store: Store
) -> None:
    order_id = await submitted(api)
    first = a_review(order_id)
    # Two of the same moment: the cursor must tell them apart.
    tasks = tuple(a_review(order_id, number, opened_at=first.opened_at) for number in (1, 2, 3))
    await write_down(store, order_id, reviews=tasks)
    seen: list[str] = []
    cursor: str | None = None
    while cursor is not None or not seen:
        parameters = {"order_id": order_id, "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/v1/reviews", params=parameters)).json()
        assert len(page["reviews"]) <= 2
        seen += [review["task_id"] for review in page["reviews"]]
        cursor = page["next_cursor"]
    assert seen == [task.task_id for task in tasks]


async def test_made_up_cursor_of_reviews_is_a_named_problem(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/reviews", params={"cursor": "not-a-cursor"})
    assert answer.status_code == 422
    assert [problem["path"] for problem in answer.json()["problems"]] == ["cursor"]


async def test_decision_is_answered_by_the_waiting_run_and_counts_once(
    api: httpx.AsyncClient, store: Store, client: Client, worker: Worker
) -> None:
    task = await an_order_in_review(api, store)
    answer = await api.post(f"/v1/reviews/{task.task_id}/decision", json=DECISION)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "decided",
        "request_id": "d-1",
        "task_id": task.task_id,
        "verdict": "approve",
        "message": "noted",
    }
    again = await api.post(f"/v1/reviews/{task.task_id}/decision", json=DECISION)
    assert again.json() == answer.json()
    assert (await heard(client, task.workflow_id)).messages == [
        ("decide_review", DECISION | {"task_id": task.task_id, "answer": None})
    ]


async def test_decision_that_the_run_refuses_is_a_conflict_in_its_words(
    api: httpx.AsyncClient, store: Store, worker: Worker
) -> None:
    task = await an_order_in_review(api, store)
    answer = await api.post(f"/v1/reviews/{task.task_id}/decision", json=DECISION | {"reason": "too late"})
    assert answer.status_code == 409
    assert answer.json()["code"] == "refused"
    assert answer.json()["detail"] == "the task was decided a moment ago"


@pytest.mark.parametrize(
    ("verdict", "done"), [("approve", None), ("reject", None), ("finish", {"capture_id": "by-phone"})]
)
async def test_decision_without_a_worker_is_queued_and_read_later(
    api: httpx.AsyncClient, store: Store, client: Client, verdict: str, done: dict[str, str] | None
) -> None:
    task = await an_order_in_review(api, store)
    decision = DECISION | {"verdict": verdict, "answer": done}
    answer = await api.post(f"/v1/reviews/{task.task_id}/decision", json=decision)
    assert answer.status_code == 202
    assert answer.json() == {"status": "queued", "request_id": "d-1"}

    async with rehearsing(client):
        messages = (await heard(client, task.workflow_id)).messages
    assert (
        verdict,
        {
            "actor": "dana",
            "reason": "known customer",
            "task_id": task.task_id,
            "request_id": "d-1",
            "answer": done,
        },
    ) in (messages)
    # Should the update have survived after all, the run knows it by the same request id.
    assert {message["request_id"] for _, message in messages} == {"d-1"}


async def test_cancel_without_a_worker_is_queued_and_read_later(
    api: httpx.AsyncClient, client: Client
) -> None:
    order_id = await submitted(api)
    wish = {"actor": "dana", "reason": "ordered twice", "request_id": "c-9"}
    answer = await api.post(f"/v1/orders/{order_id}/cancel", json=wish)
    assert answer.status_code == 202
    assert answer.json() == {"status": "queued", "request_id": "c-9"}
    async with rehearsing(client):
        messages = (await heard(client, f"order:{order_id}")).messages
    assert ("cancel_order", wish) in messages
    assert {message["request_id"] for _, message in messages} == {"c-9"}


class BetweenTwoRuns(Interceptor):
    """What the engine answers to an update when the run continues as new at that very moment."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002
        return _NotReady(next)


class _NotReady(OutboundInterceptor):
    async def start_workflow_update(self, input: StartWorkflowUpdateInput) -> WorkflowUpdateHandle[Any]:  # noqa: A002
        raise RPCError("unexpected workflow task failure", RPCStatusCode.FAILED_PRECONDITION, b"")


async def test_cancel_that_meets_a_run_continuing_as_new_is_queued(
    settings: Settings, client: Client, worker: Worker
) -> None:
    config = client.config()
    config["interceptors"] = [BetweenTwoRuns()]
    async with serving(create_app(settings, client=Client(**config))) as api:
        order_id = await submitted(api)
        wish = {"actor": "dana", "reason": "double order", "request_id": "between"}
        assert (await api.post(f"/v1/orders/{order_id}/cancel", json=wish)).status_code == 202
    assert ("cancel_order", wish) in (await heard(client, f"order:{order_id}")).messages


async def test_decision_on_a_closed_task_is_refused_and_says_who_decided(
    api: httpx.AsyncClient, store: Store
) -> None:
    task = await an_order_in_review(
        api, store, state=ReviewState.DECIDED, verdict=Verdict.REJECT, decided_by="kim", reason="no"
    )
    answer = await api.post(f"/v1/reviews/{task.task_id}/decision", json=DECISION)
    assert answer.status_code == 409
    assert "reject by kim" in answer.json()["detail"]


async def test_decision_repeated_after_its_answer_was_lost_is_no_conflict(
    api: httpx.AsyncClient, store: Store
) -> None:
    task = await an_order_in_review(
        api,
        store,
        state=ReviewState.DECIDED,
        verdict=Verdict.APPROVE,
        decided_by="dana",
        reason="known customer",
    )
    answer = await api.post(f"/v1/reviews/{task.task_id}/decision", json=DECISION)
    assert answer.status_code == 200
    assert answer.json()["verdict"] == "approve"


@pytest.mark.parametrize("task_id", ["web:nobody:r1", "nonsense", "web:%00:r1", "%F0%9F%92%A5"])
async def test_unknown_task_is_not_found(api: httpx.AsyncClient, task_id: str) -> None:
    assert (await api.get(f"/v1/reviews/{task_id}")).status_code == 404
    answer = await api.post(f"/v1/reviews/{task_id}/decision", json=DECISION)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"verdict": "perhaps", "actor": "a", "reason": "r"}', "verdict"),
        (b'{"verdict": "approve", "actor": "a"}', "reason"),
        (b'{"verdict": "approve", "actor": "orderwright", "reason": "r"}', "actor"),
        (b'{"verdict": "approve", "actor": " Temporal ", "reason": "r"}', "actor"),
        (b"not json", ""),
        (b"[]", ""),
        (b"", ""),
        (b"\xff\xfe", ""),
    ],
)
async def test_decision_names_what_is_wrong_with_its_body(
    api: httpx.AsyncClient, body: bytes, path: str
) -> None:
    answer = await api.post("/v1/reviews/web:nobody:r1/decision", content=body)
    assert answer.status_code == 422
    assert [problem["path"] for problem in answer.json()["problems"]] == [path]


async def test_decision_of_many_kilobytes_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/reviews/web:nobody:r1/decision", json=DECISION | {"reason": "x" * 70_000})
    assert answer.status_code == 413
