"""Reconciliation over HTTP: differences with both sides, runs, and a person's answers."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from activities.store import reconciliation as books
from activities.store.store import Store
from models.reconciliation import Area, Comparison, Difference, DifferenceKind, Side, Tally
from tests.apps.api.builders import a_draft

BY = {"actor": "dana", "reason": "talked to the provider"}


async def an_open_difference(
    store: Store, api: httpx.AsyncClient, kind: DifferenceKind = DifferenceKind.THEIRS_ONLY
) -> books.DifferenceView:
    """A difference of an order of its own, put before a person."""
    order_id = (await api.post("/v1/orders", json=a_draft())).json()["order_id"]
    found = Difference(
        key=f"{kind}:{order_id}",
        comparison=Comparison.MONEY,
        kind=kind,
        subject=order_id,
        order_id=order_id,
        what="the provider did what we did not",
        ours=Side(of="ours"),
        theirs=Side(of="payment provider", found=({"line_id": "cap_1"},)),
    )
    async with store.transaction() as session:
        assert await books.open_difference(session, found, "test", looked_at=datetime.now(UTC))
    page = (await api.get("/v1/reconciliation/differences", params={"order_id": order_id})).json()
    return books.DifferenceView.model_validate(page["differences"][0])


async def differences(api: httpx.AsyncClient, **asked: Any) -> list[dict[str, Any]]:
    answer = await api.get("/v1/reconciliation/differences", params=asked)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["differences"]
    return found


async def test_differences_are_listed_with_both_sides_and_filtered(
    api: httpx.AsyncClient, store: Store
) -> None:
    difference = await an_open_difference(store, api)
    assert difference.ours == Side(of="ours")
    assert difference.theirs.found == ({"line_id": "cap_1"},)
    order_id = difference.order_id
    assert await differences(api, order_id=order_id, area="money", kind="theirs_only")
    assert await differences(api, order_id=order_id, area="stock") == []
    assert await differences(api, order_id=order_id, kind="ours_only") == []
    assert await differences(api, order_id=order_id, state="accepted") == []
    assert await differences(api, order_id=order_id, state="all")


async def test_a_list_is_read_in_pages_and_a_strange_cursor_is_refused(
    api: httpx.AsyncClient, store: Store
) -> None:
    for _ in range(3):
        await an_open_difference(store, api)
    keys, cursor = list[str](), None
    while True:
        asked: dict[str, Any] = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/v1/reconciliation/differences", params=asked)).json()
        keys += [one["key"] for one in page["differences"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(keys) == len(set(keys)) >= 3
    refused = await api.get("/v1/reconciliation/differences", params={"cursor": "made-up"})
    assert (refused.status_code, refused.json()["problems"][0]["code"]) == (422, "bad_cursor")


async def test_the_task_of_a_difference_shows_both_sides(api: httpx.AsyncClient, store: Store) -> None:
    difference = await an_open_difference(store, api)
    task = (await api.get(f"/v1/reviews/{difference.task_id}")).json()
    assert [side["of"] for side in task["sides"]] == ["ours", "payment provider"]
    assert set(task["options"]) == {"reject", "finish"}


async def test_a_difference_is_accepted_as_it_is_and_a_repeat_is_told_so(
    api: httpx.AsyncClient, store: Store
) -> None:
    difference = await an_open_difference(store, api)
    decision = BY | {"verdict": "reject", "request_id": "d-1"}
    for message in ("accept it as it is", "already decided"):
        answer = await api.post(f"/v1/reviews/{difference.task_id}/decision", json=decision)
        assert answer.status_code == 200, answer.text
        assert message in answer.json()["message"]
    (accepted,) = await differences(api, order_id=difference.order_id, state="accepted")
    assert (accepted["settled_by"], accepted["settled_why"]) == ("dana", "talked to the provider")
    entries = (await api.get(f"/v1/orders/{difference.order_id}/timeline")).json()
    assert any(entry["kind"] == "review.decided" and entry["actor"] == "dana" for entry in entries)


async def test_looked_after_starts_a_run_at_once(
    api: httpx.AsyncClient, store: Store, client: Client
) -> None:
    difference = await an_open_difference(store, api)
    decision = BY | {"verdict": "finish", "request_id": f"d-{difference.order_id}".replace(":", "-")}
    answer = await api.post(f"/v1/reviews/{difference.task_id}/decision", json=decision)
    assert answer.status_code == 200, answer.text
    run = client.get_workflow_handle(f"reconciliation:money:{decision['request_id']}")
    assert (await run.describe()).workflow_type == "ReconciliationWorkflow"
    await run.terminate("the test has seen it")


async def test_an_answer_that_the_task_does_not_offer_is_refused(
    api: httpx.AsyncClient, store: Store
) -> None:
    difference = await an_open_difference(store, api)
    answer = await api.post(f"/v1/reviews/{difference.task_id}/decision", json=BY | {"verdict": "approve"})
    assert (answer.status_code, answer.json()["code"]) == (409, "refused")
    assert "possible: finish, reject" in answer.json()["detail"]


async def test_a_run_is_started_once_by_its_request_and_shown_when_it_has_begun(
    api: httpx.AsyncClient, store: Store, client: Client
) -> None:
    asked = {"area": "labels", "request_id": "twice"}
    answers = [await api.post("/v1/reconciliation/runs", json=asked) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    run_id = answers[0].json()["run_id"]
    assert run_id == answers[1].json()["run_id"] == "reconciliation:labels:twice"
    assert (await api.get(f"/v1/reconciliation/runs/{run_id}")).status_code == 404
    async with store.transaction() as session:
        await books.begin(session, run_id=run_id, area=Area.LABELS, everything=False)
    assert (await api.get(f"/v1/reconciliation/runs/{run_id}")).json()["state"] == "running"
    async with store.transaction() as session:
        await books.finish(session, run_id=run_id, area=Area.LABELS, tally=Tally(checked=3), failure=None)
    runs = (await api.get("/v1/reconciliation/runs")).json()["runs"]
    assert [(run["area"], run["state"], run["checked"]) for run in runs] == [("labels", "done", 3)]
    await client.get_workflow_handle(run_id).terminate("the test has seen it")


@pytest.mark.parametrize(
    "body",
    [{}, {"area": "everything"}, {"area": "money", "al": True}, {"area": "money", "request_id": "a b"}],
)
async def test_a_run_of_what_is_no_area_is_refused(api: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await api.post("/v1/reconciliation/runs", json=body)
    assert answer.status_code == 422
    assert answer.json()["problems"]


async def test_what_is_open_and_how_long_ago_it_was_compared_is_measured(
    api: httpx.AsyncClient, store: Store
) -> None:
    await an_open_difference(store, api)
    async with store.transaction() as session:
        await books.begin(session, run_id="measured", area=Area.MONEY, everything=False)
        await books.finish(session, run_id="measured", area=Area.MONEY, tally=Tally(), failure=None)
    text = (await api.get("/metrics")).text
    (value,) = [
        line.rpartition(" ")[2]
        for line in text.splitlines()
        if line.startswith('orderwright_differences_open{kind="theirs_only"}')
    ]
    assert float(value) >= 1
    assert 'orderwright_reconciled_seconds_ago{area="money"}' in text
