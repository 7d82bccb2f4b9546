"""The policy over HTTP: proposed by one, approved by another, refused as a whole where it makes no sense."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from activities.routing import RoutingActivities
from activities.store import plans
from activities.store.store import Store
from apps.api import policy
from models.effects import RouteOrder
from models.plan import Plan, PlanSummary
from policies.routing.exact import ExactRouter
from policies.routing.problem import RoutingProblem
from tests.activities.running import run
from tests.builders import NOON, a_draft, accepted, new_number, skus_of, stocked, under_policy


@pytest.fixture(autouse=True)
async def nothing_is_left(store: Store) -> AsyncIterator[None]:
    """Other tests share the database, and are about no policy."""
    yield
    await under_policy(store, {})


def a_proposal(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "request_id": f"p-{new_number()}",
        "actor": "jo",
        "reason": "a sale",
        "document": document,
    } | changes


async def test_a_policy_is_proposed_approved_looked_at_and_refused(
    api: httpx.AsyncClient, store: Store
) -> None:
    await stocked(store, north={"P": 1})
    proposed = await api.post("/v1/policy/versions", json=a_proposal({"routing": {"max_parcels": 2}}))
    assert proposed.status_code == 200, proposed.text
    view = proposed.json()
    path = f"/v1/policy/versions/{view['version']}"
    assert view["entry"]["state"] == "proposed"
    own = await api.post(f"{path}/approve", json={"actor": "jo"})
    assert (own.status_code, own.json()["code"]) == (409, "refused")
    approved = await api.post(f"{path}/approve", json={"actor": "dana", "reason": "fine"})
    assert approved.json()["entry"]["decided_because"] == "fine"
    assert (await api.get("/v1/policy")).json() == approved.json() == (await api.get(path)).json()
    assert approved.json()["effective"]["routing"]["max_parcels"] == 2
    other = (await api.post("/v1/policy/versions", json=a_proposal({}))).json()["version"]
    refused = await api.post(f"/v1/policy/versions/{other}/refuse", json={"actor": "jo"})
    assert refused.json()["entry"]["state"] == "refused"
    history = (await api.get("/v1/policy/versions")).json()
    assert history["active"] == view["version"]
    assert [entry["state"] for entry in history["versions"]][:2] == ["refused", "active"]
    assert (await api.get("/v1/policy/versions/0")).json()["document"] == {}
    assert (await api.get("/v1/policy/versions/4711")).status_code == 404


async def test_every_problem_is_said_and_nothing_is_stored(api: httpx.AsyncClient, store: Store) -> None:
    await stocked(store, north={"P": 1})
    before = (await api.get("/v1/policy/versions")).json()
    shape = await api.post(
        "/v1/policy/versions", json=a_proposal({"rooting": {}, "routing": {"late_day_minor": -1}})
    )
    assert shape.status_code == 422
    assert {problem["path"] for problem in shape.json()["problems"]} == {
        "document.rooting",
        "document.routing.late_day_minor",
    }
    sense = await api.post(
        "/v1/policy/versions",
        json=a_proposal(
            {
                "node_groups": {"moons": ["phobos"]},
                "routing_rules": [{"rule_id": "r", "only": ["mars"]}],
            }
        ),
    )
    assert (sense.status_code, sense.json()["code"]) == (422, "invalid_document")
    assert {problem["code"] for problem in sense.json()["problems"]} == {"unknown_node"}
    both = {"rooting": {}, "routing_rules": [{"rule_id": "r", "speed": 3, "only": ["mars"]}]}
    expected = {
        "document.rooting",
        "document.routing_rules[0].speed",
        "document.routing_rules[0].only[0]",
    }
    for path, body in (
        ("versions", a_proposal(both, replaces="none")),
        ("backtest", {"document": both, "limit": 0}),
    ):
        answer = await api.post(f"/v1/policy/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        told = [problem["path"] for problem in answer.json()["problems"]]
        assert set(told) == expected | ({"replaces"} if path == "versions" else {"limit"})
        assert len(told) == len(expected) + 1
    machine = await api.post("/v1/policy/versions", json=a_proposal({}, actor="orderwright"))
    assert machine.status_code == 422
    assert (await api.get("/v1/policy/versions")).json() == before


async def test_a_document_is_checked_without_being_proposed(api: httpx.AsyncClient, store: Store) -> None:
    await stocked(store, north={"P": 1})
    before = (await api.get("/v1/policy/versions")).json()
    wrong = {"rooting": {}, "routing_rules": [{"rule_id": "r", "only": ["mars"]}]}
    answer = await api.post("/v1/policy/check", json={"document": wrong})
    assert answer.status_code == 200, answer.text
    assert [(one["path"], one["code"]) for one in answer.json()["problems"]] == [
        ("rooting", "extra_forbidden"),
        ("routing_rules[0].only[0]", "unknown_node"),
    ]
    fine = await api.post("/v1/policy/check", json={"document": {"routing": {"max_parcels": 3}}})
    assert fine.json() == {"problems": []}
    many = {f"key-{number}": 1 for number in range(200)}
    assert len((await api.post("/v1/policy/check", json={"document": many})).json()["problems"]) == 100
    assert (await api.post("/v1/policy/check", json={"document": 3})).status_code == 422
    assert (await api.get("/v1/policy/versions")).json() == before


async def test_a_policy_is_tried_on_what_was_planned_and_shown_to_who_approves_it(
    api: httpx.AsyncClient, store: Store
) -> None:
    # Each SKU lies in a node of its own: two parcels.
    draft = a_draft(2)
    first, second = skus_of(draft)
    await stocked(store, north={first: 9}, south={second: 9})
    order_id = await accepted(store, draft)
    routing = RoutingActivities(store, ExactRouter())
    assert (await run(routing.route_order, RouteOrder(order_id=order_id, attempt=1, business_now=NOON))).plan
    tried = await api.post("/v1/policy/backtest", json={"document": {}, "limit": 1})
    assert tried.status_code == 200, tried.text
    report = tried.json()
    assert (report["policy"], report["asked"], report["tried"], report["changed"]) == (
        "the document",
        1,
        1,
        0,
    )
    one_parcel = (
        await api.post("/v1/policy/versions", json=a_proposal({"routing": {"max_parcels": 1}}))
    ).json()
    version = one_parcel["version"]
    report = (await api.post("/v1/policy/backtest", json={"version": version, "limit": 1})).json()
    assert (report["policy"], report["changed"], report["fill_before"]) == (f"policy/{version}", 1, 1.0)
    assert report["fill_after"] < 1 and report["figures"] == []
    approved = await api.post(f"/v1/policy/versions/{version}/approve", json={"actor": "dana"})
    assert approved.json()["backtest"] == report
    # What it was approved by stays, whatever is tried later.
    later = await api.post("/v1/policy/backtest", json={"version": version, "limit": 2})
    assert later.status_code == 200 and later.json() != report
    assert (await api.get(f"/v1/policy/versions/{version}")).json()["backtest"] == report
    wrong = await api.post("/v1/policy/backtest", json={"document": {"node_groups": {"x": ["mars"]}}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_document")
    assert (await api.post("/v1/policy/backtest", json={})).status_code == 422
    assert (await api.post("/v1/policy/backtest", json={"version": 4711})).status_code == 404


async def test_a_back_test_runs_beside_the_api_and_a_second_one_at_a_time_is_refused(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    runs = policy._backtest

    def held_up(*asked: Any, **more: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return runs(*asked, **more)

    monkeypatch.setattr(policy, "_backtest", held_up)
    wish = {"document": {}, "limit": 1}
    given_up = asyncio.create_task(api.post("/v1/policy/backtest", json=wish))
    assert await asyncio.to_thread(begun.wait, 60)
    second = await api.post("/v1/policy/backtest", json=wish)
    assert (second.status_code, second.json()["code"]) == (409, "backtest_running")
    assert (await api.get("/v1/policy")).status_code == 200, "the API goes on serving"
    # Nobody waits for it any more, but its thread still works.
    given_up.cancel()
    assert isinstance((await asyncio.gather(given_up, return_exceptions=True))[0], BaseException)
    assert (await api.post("/v1/policy/backtest", json=wish)).status_code == 409
    go_on.set()
    async with asyncio.timeout(60):
        while (third := await api.post("/v1/policy/backtest", json=wish)).status_code == 409:
            assert third.json()["code"] == "backtest_running"
    assert third.status_code == 200
    # One that fails is over, too.
    assert (await api.post("/v1/policy/backtest", json={"version": 4711})).status_code == 404
    assert (await api.post("/v1/policy/backtest", json=wish)).status_code == 200


async def test_what_was_decided_is_read_beside_the_event_loop(
    api: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = a_draft(1)
    await stocked(store, north=dict.fromkeys(skus_of(draft), 9))
    order_id = await accepted(store, draft)
    routing = RoutingActivities(store, ExactRouter())
    await run(routing.route_order, RouteOrder(order_id=order_id, attempt=1, business_now=NOON))
    read_by: list[threading.Thread] = []
    for contract in (Plan, RoutingProblem):
        for name in ("model_validate", "model_validate_json"):
            reads = getattr(contract, name)

            def told(given: Any, *, _reads: Any = reads) -> Any:
                read_by.append(threading.current_thread())
                return _reads(given)

            monkeypatch.setattr(contract, name, told)
    report = (await api.post("/v1/policy/backtest", json={"document": {}, "limit": 1})).json()
    assert report["tried"] == 1
    assert len(read_by) == 2 and threading.main_thread() not in read_by


async def test_a_decision_of_which_it_was_not_kept_what_the_router_saw_is_skipped(
    api: httpx.AsyncClient, store: Store
) -> None:
    draft = a_draft(1)
    await stocked(store, north=dict.fromkeys(skus_of(draft), 9))
    order_id = await accepted(store, draft)
    routing = RoutingActivities(store, ExactRouter())
    answer = await run(routing.route_order, RouteOrder(order_id=order_id, attempt=1, business_now=NOON))
    assert answer.plan is not None
    async with store.transaction() as session:
        made = await plans.stored_plan(session, order_id, answer.plan.plan_id)
    older = await accepted(store, a_draft(1))
    summary = PlanSummary.model_validate(answer.plan.model_dump() | {"plan_id": plans.plan_id(older, 1)})
    async with store.transaction() as session:
        await plans.keep_plan(session, older, 1, made, summary)
    report = (await api.post("/v1/policy/backtest", json={"document": {}, "limit": 2})).json()
    assert (report["asked"], report["skipped"], report["tried"]) == (2, 1, 1)
