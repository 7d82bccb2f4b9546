"""The policy over HTTP: proposed by one, approved by another, refused as a whole where it makes no sense."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from activities.routing import RoutingActivities
from activities.store.store import Store
from models.effects import RouteOrder
from policies.routing.exact import ExactRouter
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
