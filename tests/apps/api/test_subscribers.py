"""Subscribing over HTTP, and what becomes of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from activities.store.store import Store
from apps.api.application import create_app
from models.outbox import OutboxEnvelope, address_problem
from tests.apps.api.builders import a_draft
from tests.apps.api.conftest import TOKEN, WEBHOOK_SECRET, serving
from tests.apps.api.receiver import SECRET, Receiver, receiving
from tests.apps.api.test_outbox import until
from workers.settings import Settings


@pytest.fixture
def own_settings(fresh_database: str) -> Settings:
    return Settings(
        api_token=TOKEN,
        webhook_secret=WEBHOOK_SECRET,
        database_url=fresh_database,
        outbox_send_seconds=2.0,
        outbox_attempts=1,
    )


@pytest.fixture
async def caller(own_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Calls an API of its own, whose Temporal is away."""
    async with serving(create_app(own_settings)) as calling:
        yield calling


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as listening:
        yield listening
        assert listening.wrong == []


def a_subscriber(**changes: Any) -> dict[str, Any]:
    return {
        "subscriber_id": "shop",
        "url": "http://127.0.0.1:9/events",
        "topics": ["orders"],
        "secret": SECRET,
    } | changes


async def added(caller: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await caller.post("/v1/subscribers", json=a_subscriber(**changes))
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def shown(caller: httpx.AsyncClient, subscriber_id: str = "shop") -> dict[str, Any]:
    told: dict[str, Any] = (await caller.get(f"/v1/subscribers/{subscriber_id}")).json()
    return told


async def shows(caller: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    for _ in range(600):
        told = await shown(caller)
        if wanted.items() <= told.items():
            return told
        await asyncio.sleep(0.05)
    raise AssertionError(told)


async def test_an_order_that_is_accepted_is_told_to_who_subscribed(
    caller: httpx.AsyncClient, receiver: Receiver
) -> None:
    await added(caller, url=receiver.url)
    draft = a_draft()
    assert (await caller.post("/v1/orders", json=draft)).status_code == 202
    order_id = f"web:{draft['external_id']}"
    await until(lambda: receiver.applied[order_id])
    assert receiver.applied[order_id][0]["state"] == "received"


async def test_a_secret_that_we_make_is_shown_once(caller: httpx.AsyncClient, fresh_store: Store) -> None:
    told = await added(caller, secret=None)
    assert len(told["secret"]) == 64
    for path in ("/v1/subscribers", "/v1/subscribers/shop"):
        assert told["secret"] not in (await caller.get(path)).text
    again = (await caller.post("/v1/subscribers/shop/secret", json={})).json()
    assert again["secret"] != told["secret"]
    async with fresh_store.transaction() as session:
        assert await session.scalar(text("SELECT secret FROM subscribers")) == again["secret"]


async def test_the_same_request_after_a_lost_answer_is_answered_again(caller: httpx.AsyncClient) -> None:
    first = await added(caller)
    assert (await added(caller)) == first
    for other in (
        {"url": "http://127.0.0.1:9/elsewhere"},
        {"topics": ["finance"]},
        {"secret": None},
        {"secret": "x" * 40},
    ):
        answer = await caller.post("/v1/subscribers", json=a_subscriber(**other))
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "ftp://erp.example/"),
        ("url", "file:///etc/passwd"),
        ("url", "https://user:password@erp.example/"),
        ("url", "https://token@erp.example/"),
        ("url", "erp.example/events"),
        ("url", "http://"),
        ("url", "http://erp.example:99999/"),
        ("url", "http://erp.example:0/"),
        ("url", "http://[::1/"),
        ("url", "http://[12:34]/"),
        ("url", "http://erp.example/#part"),
        ("url", "http://erp.example/a b"),
        ("url", "http://erp.example\\@elsewhere.example/"),
        ("url", "http://erp.example/\r\nHost: other"),
        ("url", "https://erp.example/" + "x" * 1000),
        ("topics", []),
        ("topics", ["everything"]),
        ("subscriber_id", "ERP 1"),
        ("secret", "short"),
        ("secret", "with spaces " * 5),
        ("color", "blue"),
    ],
)
async def test_what_cannot_be_a_subscriber_is_refused_and_nothing_kept(
    caller: httpx.AsyncClient, field: str, value: Any
) -> None:
    answer = await caller.post("/v1/subscribers", json=a_subscriber(**{field: value}))
    assert answer.status_code == 422, answer.text
    assert answer.json()["problems"][0]["path"].startswith(field)
    assert (await caller.get("/v1/subscribers")).json() == {"subscribers": []}


@pytest.mark.parametrize(
    "url", ["http://erp", "https://erp.example:8443/a?b=@c", "http://[::1]:80/", "http://10.0.0.1/x"]
)
async def test_these_are_addresses(caller: httpx.AsyncClient, url: str) -> None:
    assert address_problem(url) is None
    assert (await added(caller, url=url))["subscriber"]["url"] == url


async def test_no_more_than_fifty_are_served(caller: httpx.AsyncClient) -> None:
    await asyncio.gather(*(added(caller, subscriber_id=f"s{n}") for n in range(50)))
    answer = await caller.post("/v1/subscribers", json=a_subscriber())
    assert (answer.status_code, answer.json()["code"]) == (409, "refused")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/pause", {}),
        ("POST", "/resume", {}),
        ("POST", "/secret", {}),
        ("POST", "/replay", {"position": 0}),
        ("GET", "/dead-letters", None),
        ("POST", "/dead-letters/retry", {}),
        ("POST", "/dead-letters/7/drop", {"actor": "dana", "reason": "x"}),
    ],
)
async def test_of_a_subscriber_that_does_not_exist_nothing_can_be_asked(
    caller: httpx.AsyncClient, method: str, path: str, body: Any
) -> None:
    for subscriber_id in ("nobody", "NO%20BODY"):
        answer = await caller.request(method, f"/v1/subscribers/{subscriber_id}{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_what_is_not_taken_can_be_seen_tried_again_and_dropped(
    caller: httpx.AsyncClient, receiver: Receiver
) -> None:
    accepts: set[str] = set()

    def picky(envelope: OutboxEnvelope) -> int:
        return 200 if envelope.key in accepts else 422

    receiver.answers = picky
    await added(caller, url=receiver.url)
    drafts = [a_draft(), a_draft()]
    for draft in drafts:
        await caller.post("/v1/orders", json=draft)
    await shows(caller, dead_letters=2, failing_keys=0)
    first, second = (await caller.get("/v1/subscribers/shop/dead-letters")).json()["dead_letters"]
    assert first["event"]["key"] == f"web:{drafts[0]['external_id']}"
    assert first["failure"] == "HTTP 422"
    metrics = (await caller.get("/metrics")).text
    assert 'orderwright_outbox_dead_letters{subscriber="shop"} 2.0' in metrics

    accepts.add(first["event"]["key"])
    retried = await caller.post(
        "/v1/subscribers/shop/dead-letters/retry", json={"position": first["position"]}
    )
    assert retried.json() == {"retried": 1}
    await until(lambda: receiver.applied[first["event"]["key"]])
    dropping = f"/v1/subscribers/shop/dead-letters/{second['position']}/drop"
    refused = await caller.post(dropping, json={"actor": "orderwright", "reason": "x"})
    assert refused.status_code == 422
    await caller.post(dropping, json={"actor": "dana", "reason": "entered by hand"})
    await shows(caller, dead_letters=0, waiting=0)
    # Its answer was lost, say.
    assert (await caller.post(dropping, json={"actor": "dana", "reason": "again"})).status_code == 200
    for_another = dropping.replace(str(second["position"]), str(first["position"]))
    assert (await caller.post(for_another, json={"actor": "dana", "reason": "x"})).status_code == 404
    retried = await caller.post("/v1/subscribers/shop/dead-letters/retry", json={"position": 1})
    assert retried.json() == {"retried": 0}


async def test_pausing_resuming_replaying_and_removing(caller: httpx.AsyncClient, receiver: Receiver) -> None:
    await added(caller, url=receiver.url)
    assert (await caller.post("/v1/subscribers/shop/pause")).json()["active"] is False
    draft = a_draft()
    await caller.post("/v1/orders", json=draft)
    key = f"web:{draft['external_id']}"
    await shows(caller, waiting=1)
    assert receiver.requests == 0
    assert (await caller.post("/v1/subscribers/shop/resume")).json()["active"] is True
    await until(lambda: receiver.applied[key])
    position = (await shows(caller, waiting=0))["position"]
    late = await caller.post("/v1/subscribers/shop/replay", json={"position": position + 2})
    assert (late.status_code, late.json()["code"]) == (409, "refused")
    await caller.post("/v1/subscribers/shop/replay", json={"position": position})
    await until(lambda: len(receiver.came[key]) == 2)
    assert len(receiver.applied[key]) == 1
    assert (await caller.delete("/v1/subscribers/shop")).status_code == 204
    assert (await caller.get("/v1/subscribers")).json() == {"subscribers": []}


async def test_the_secret_is_in_no_log(
    caller: httpx.AsyncClient, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    await added(caller, url=receiver.url)
    await caller.post("/v1/subscribers", json=a_subscriber(url="nonsense"))
    draft = a_draft()
    await caller.post("/v1/orders", json=draft)
    await until(lambda: receiver.applied[f"web:{draft['external_id']}"])
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    assert SECRET not in json.dumps((await caller.get("/v1/subscribers")).json())
